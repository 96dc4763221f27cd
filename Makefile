# Placeholder while the rooms are being built; see the final Makefile's help.
BUILD ?= build
CC ?= gcc
WARN = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wvla -Wundef
CFLAGS ?= -O2 -g
BASE = -std=c11 -D_GNU_SOURCE -Isrc -Iinclude -ffp-contract=off -fno-fast-math -fno-strict-aliasing -fPIC -fvisibility=hidden
