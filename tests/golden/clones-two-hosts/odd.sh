#!/bin/sh
echo odd
