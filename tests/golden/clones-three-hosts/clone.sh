#!/bin/sh
echo clone
