"""Drawings of testbeds: graphs as text, and pictures as places and SVG."""
