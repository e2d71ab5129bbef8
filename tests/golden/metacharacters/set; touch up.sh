#!/bin/sh
echo set
