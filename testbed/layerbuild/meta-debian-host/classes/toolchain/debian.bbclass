# SPDX-License-Identifier: MIT
#
# For wrynose, whose recipes all inherit toolchain/${TOOLCHAIN}: Debian's cross gcc and binutils. oe-core's gcc.bbclass
# says the same words for the tools, and names its own recipes as their providers.

CC = "${CCACHE}${HOST_PREFIX}gcc ${HOST_CC_ARCH}${TOOLCHAIN_OPTIONS}"
CXX = "${CCACHE}${HOST_PREFIX}g++ ${HOST_CC_ARCH}${TOOLCHAIN_OPTIONS}"
CPP = "${HOST_PREFIX}gcc -E${TOOLCHAIN_OPTIONS} ${HOST_CC_ARCH}"
CCLD = "${CC}"
LD = "${HOST_PREFIX}ld${TOOLCHAIN_OPTIONS} ${HOST_LD_ARCH}"
AS = "${HOST_PREFIX}as ${HOST_AS_ARCH}"
AR = "${HOST_PREFIX}gcc-ar"
NM = "${HOST_PREFIX}gcc-nm"
RANLIB = "${HOST_PREFIX}gcc-ranlib"
OBJCOPY = "${HOST_PREFIX}objcopy"
OBJDUMP = "${HOST_PREFIX}objdump"
READELF = "${HOST_PREFIX}readelf"
STRINGS = "${HOST_PREFIX}strings"
STRIP = "${HOST_PREFIX}strip"

TCOVERRIDE = "toolchain-gcc"
