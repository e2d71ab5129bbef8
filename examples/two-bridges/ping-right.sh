#!/bin/sh
ping -c 3 right
