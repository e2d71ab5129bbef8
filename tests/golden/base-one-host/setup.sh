#!/bin/sh
apt-get install --yes nginx
