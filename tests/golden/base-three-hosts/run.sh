#!/bin/sh
systemctl restart nginx
