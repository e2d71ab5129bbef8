#!/bin/sh
echo each
