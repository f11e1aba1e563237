# SPDX-License-Identifier: MIT
"""Fuzz targets: what a frontend, a compositor, XenStore, a worker or a stored state may say, at random.

`make fuzz N=1000000 SEED=1 TARGET=requests`. A target's work is cut into sessions, each of which is made by
one seed alone, so a failure is repeated by the seed that its message names. An input is one packet, line,
page, event or node that the code is given. Time is virtual where there is any (base.Loop), so that 8 s of
waiting cost nothing and each run of a seed is the same.
"""
