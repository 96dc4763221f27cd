# GRETA's build. Sources are found by wildcard; everything that is made lies under $(BUILD).
# `make help` lists the targets and the variables.

BUILD  ?= build
# One spelling of the folder, since what an object depends on is noted under its name.
override BUILD := $(patsubst $(CURDIR)/%,%,$(abspath $(BUILD)))
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
# -g1: functions and lines, in less time than -g; CFLAGS='-O2 -g' for a debugger.
CFLAGS ?= $(if $(SAN),-O1,-O2) -g1
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)
ifeq ($(origin CC),default)
CC := gcc
endif

# One place states the versions: what greta_version() answers.
VERSION   := $(shell sed -n 's/.*\.library = "\(.*\)".*/\1/p' src/*/version.c)
SOVERSION := $(shell sed -n 's/.*\.api = \(.*\),.*/\1/p' src/*/version.c)

# ---- Flags ---------------------------------------------------------------------------------------
# No fast-math and no contraction anywhere: a fused multiply-add happens only where the source says
# so. No LTO: the CPU detection must never inherit the instruction set of what it guards.

WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wvla -Wundef
SAFE := -ffp-contract=off -fno-fast-math -fno-strict-aliasing
CHECKED := $(if $(SAN),-DSANITIZED -fsanitize=$(SAN) -fno-sanitize-recover=all \
           -fno-omit-frame-pointer)
COMPILE = $(CC) -std=c11 -D_GNU_SOURCE -Iinclude $(CFLAGS) $(WARN) $(SAFE) -fPIC \
          $(if $(SAN),,-fvisibility=hidden) $(CHECKED)
LINK    = $(CC) $(CHECKED) $(LDFLAGS) -Wl,--as-needed
LIBS    = -ljansson -lpcre2-8 -lutf8proc -lxxhash -pthread -lm
TEST_LIBS = -lcmocka -lmpfr -lgmp

# ---- Sources -------------------------------------------------------------------------------------
# src/kernel/ref/ is compiled twice: for any CPU of the architecture, and with AVX2 and FMA.
# src/kernel/x86/<isa>/ gets its instruction set; chosen at run time (src/kernel/cpu.c). Kernels
# stand first: they take longest to compile.

REF_SRC := $(wildcard src/kernel/ref/*.c)
X86_SRC := $(wildcard src/kernel/x86/*/*.c src/kernel/x86/*.c)
LIB_SRC := $(X86_SRC) $(REF_SRC) $(wildcard src/*/*.c)
AVX2    := -mavx2 -mfma -mf16c
AVX512  := $(AVX2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni
CLI_SRC := $(wildcard cli/*.c)
MKMODEL_SRC := $(wildcard tools/mkmodel*.c)
TEST_SRC := $(wildcard tests/test_*.c)
TOOL_SRC := $(wildcard tests/*_tool.c)
HELP_SRC := $(filter-out $(TEST_SRC) $(TOOL_SRC),$(wildcard tests/*.c))

objects = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
LIB_OBJ := $(call objects,$(LIB_SRC)) $(patsubst %.c,$(BUILD)/obj/%.avx2.o,$(REF_SRC))
ALL_OBJ := $(LIB_OBJ) $(call objects,$(CLI_SRC) $(MKMODEL_SRC) $(TEST_SRC) $(TOOL_SRC) $(HELP_SRC))

STATIC := $(BUILD)/libgreta.a
SHARED := $(BUILD)/libgreta.so.$(VERSION)
# What programs are linked with. Under sanitizers the archive is large and every program would hold
# it: there they share one library, in which every function can be seen.
LINKED := $(if $(SAN),$(BUILD)/libgreta.so,$(STATIC))
SONAME := libgreta.so.$(SOVERSION)
TOOLS  := $(BUILD)/tools/mkmodel $(patsubst tests/%.c,$(BUILD)/tools/%,$(TOOL_SRC))
TESTS  := $(patsubst %.c,$(BUILD)/%,$(TEST_SRC))
# Plugins of devices: of GPUs and of their emulator; of the tests, one that is no GPU, and such as
# greta must refuse.
REFERENCE := reference faulty oldinterface otherarithmetic misnamed
GPU     ?=
EMU     ?= $(if $(SAN),,emu)
VENDOR_PLUGINS := $(patsubst %,$(BUILD)/plugins/libgreta-%.so,$(GPU))
GPU_PLUGINS := $(VENDOR_PLUGINS) $(patsubst %,$(BUILD)/plugins/libgreta-%.so,$(EMU))
PLUGINS := $(patsubst %,$(BUILD)/plugins/libgreta-%.so,$(REFERENCE))

Q   := $(if $(V),,@)
say  = $(if $(V),,@echo "  $(1) $@")
dir  = @mkdir -p $(@D)
comma := ,

# ---- Build ---------------------------------------------------------------------------------------

.PHONY: all checked lib tools plugins warnings check check-hf check-peer ulp check-long golden
.PHONY: golden-kit check-gpu demo deps install score score-readme
.PHONY: uninstall clean help FORCE
.DELETE_ON_ERROR:
.SECONDARY:

all: $(if $(SAN),,lib) $(BUILD)/greta tools $(TESTS) plugins ## everything (the default); GPU=cuda
# What tests/run.py runs under sanitizers; BUT: tests that it does not.
checked: $(BUILD)/greta $(BUILD)/tools/mkmodel plugins \
         $(filter-out $(addprefix $(BUILD)/tests/,$(BUT)),$(TESTS))
plugins: $(GPU_PLUGINS) $(PLUGINS)
lib: $(STATIC) $(BUILD)/libgreta.so    ## build the library only
tools: $(TOOLS)
warnings: $(ALL_OBJ) ## with CFLAGS=-fsyntax-only: what a compiler says of every file

# Rewritten when the command changes, so that CC=, SAN= or CFLAGS= never mix objects.
$(BUILD)/flags: FORCE
	$(dir)
	@echo '$(COMPILE)' | cmp -s - $@ || echo '$(COMPILE)' >$@

# The command line sees the public header only; the rooms see each other (tools/tidy.py says which).
# Kernels are worth -O3, but not under sanitizers, where it takes most of the time of the build.
O3 ?= $(if $(SAN),,-O3)
# But the definition computes most of what tests compare with, and pays for -O2 there too.
REF_O ?= $(if $(SAN),-O2,$(O3))
# Nor are tiles of intrinsics checked there, for the same reason: tests/test_simd.c gives them guard
# pages and canaries. SAN_TILES= checks them too, in minutes (make check-long); PLAIN=build takes
# those that a build without sanitizers has compiled.
SAN_TILES ?= $(if $(SAN),-fno-sanitize=all)
PLAIN ?=
TILES := $(wildcard src/kernel/x86/*/matmul_*.c)
# Of tiles only lines are told to debuggers: the same code in less time. (A bound on gcc's alias
# walks saves much more, but Q8_0 prefill ran at 0.9 times the speed.)
TILE_FLAGS := $(if $(filter -g,$(CFLAGS)),-g1)
$(BUILD)/obj/%.o: EXTRA = -Isrc
$(BUILD)/obj/cli/%.o: EXTRA =
$(BUILD)/obj/src/kernel/ref/%.o: EXTRA = -Isrc $(REF_O)
$(BUILD)/obj/src/kernel/ref/%.avx2.o: EXTRA = -Isrc $(REF_O) $(AVX2) -DREF_AVX2
$(addprefix $(BUILD)/obj/src/,trace/values.o replay/op_f64.o replay/op_bound.o): EXTRA = -Isrc $(O3)
$(BUILD)/obj/src/kernel/x86/%.o: EXTRA = -Isrc $(O3)
$(BUILD)/obj/src/kernel/x86/avx2/%.o: EXTRA = -Isrc $(O3) $(AVX2)
$(BUILD)/obj/src/kernel/x86/avx512/%.o: EXTRA = -Isrc $(O3) $(AVX512)
$(call objects,$(TILES)): EXTRA += $(TILE_FLAGS) $(SAN_TILES)
# Tests are compiled once and run once: what optimising them takes is more than what it saves, but
# for those that compute much themselves.
TEST_FLAGS := $(if $(findstring -O,$(CFLAGS)),-O0)
$(call objects,$(filter-out %/test_simd.c %/test_op_bound.c,$(TEST_SRC))): EXTRA += $(TEST_FLAGS)

define compile
$(dir)
$(call say,cc  )
$(Q)$(COMPILE) $(EXTRA) $(if $(WERROR),-Werror) -MMD -MP -c $< -o $@
endef
$(BUILD)/obj/%.avx2.o: %.c $(BUILD)/flags
	$(compile)
$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	$(compile)
ifneq ($(PLAIN),)
$(call objects,$(TILES)): $(BUILD)/obj/%.o: $(PLAIN)/obj/%.o
	$(dir)
	$(Q)cp -f $< $@
endif

$(STATIC): $(LIB_OBJ)
	$(call say,ar  )
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(SHARED): $(LIB_OBJ)
	$(call say,link)
	$(Q)$(LINK) -shared -Wl,-soname,$(SONAME) $(if $(SAN),,-Wl,-z,defs) $^ $(LIBS) -o $@

$(BUILD)/libgreta.so: $(SHARED)
	$(Q)ln -sf $(<F) $(BUILD)/$(SONAME) && ln -sf $(SONAME) $@

define program
$(dir)
$(call say,link)
$(Q)$(LINK) $^ $(1) $(LIBS) $(if $(SAN),-Wl$(comma)-rpath$(comma)$(BUILD)) -o $@
endef
$(BUILD)/greta: $(call objects,$(CLI_SRC)) $(LINKED)
	$(call program)
$(BUILD)/tools/mkmodel: $(call objects,$(MKMODEL_SRC)) $(LINKED)
	$(call program)
$(BUILD)/tools/%_tool: $(BUILD)/obj/tests/%_tool.o $(LINKED)
	$(call program,$(TOOL_LIBS))
$(BUILD)/tools/ulp_tool: TOOL_LIBS = -lmpfr -lgmp
$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(call objects,$(HELP_SRC)) $(LINKED)
	$(call program,$(TEST_LIBS))

-include $(ALL_OBJ:.o=.d)

# ---- GPU plugins ---------------------------------------------------------------------------------
# One source, src/kernel/gpu/plugin.cu, opened at run time: greta needs no library of a vendor. The
# tests run it on the CPU (tests/gpu_emu), except under sanitizers, which do not know its threads.

NVCC    ?= nvcc
CUDA_ARCH ?= -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=[sm_90,compute_90]
GPU_SRC := src/kernel/gpu/plugin.cu
GPU_WARN := -Wall,-Wextra

$(BUILD)/plugins/libgreta-cuda.so: $(GPU_SRC) $(BUILD)/flags
	$(dir)
	$(call say,nvcc)
	$(Q)$(NVCC) -std=c++17 -O3 -fmad=false -ftz=false -prec-div=true -prec-sqrt=true $(CUDA_ARCH) \
	    -Iinclude -Isrc -Xcompiler -fPIC,-fvisibility=hidden,-ffp-contract=off,$(GPU_WARN) \
	    -MMD -MP -MF $@.d -shared -cudart static $< -o $@
# Debian's rocm-device-libs has no device code for gfx942; that of gfx940 is the same.
# sh tools/deps.sh hip installs what this needs. AMD's own ROCm: HIPCXX=hipcc ROCM_PATH=/opt/rocm
HIPCXX   ?= clang++-19
HIP_ARCH ?= --offload-arch=gfx90a --offload-arch=gfx942
HIP_O    ?= -O2
ROCM_PATH ?= /usr
ROCM_BITCODE ?= $(firstword $(wildcard $(patsubst %,$(ROCM_PATH)/%amdgcn/bitcode,lib/*/ lib/) \
                $(ROCM_PATH)/amdgcn/bitcode))
$(BUILD)/plugins/libgreta-hip.so: $(GPU_SRC) $(BUILD)/flags
	$(dir)
	$(call say,hip )
	$(Q)mkdir -p $(BUILD)/bitcode && cp -f $(ROCM_BITCODE)/*.bc $(BUILD)/bitcode/ && \
	    cd $(BUILD)/bitcode && { [ -f oclc_isa_version_942.bc ] || \
	    cp -f oclc_isa_version_940.bc oclc_isa_version_942.bc; }
	$(Q)PATH="/usr/lib/llvm-19/bin:$$PATH" $(HIPCXX) -x hip $(HIP_ARCH) -std=c++17 $(HIP_O) \
	    -ffp-contract=off -fno-fast-math --rocm-path=$(ROCM_PATH) \
	    --rocm-device-lib-path=$(abspath $(BUILD))/bitcode -Iinclude -Isrc -fPIC \
	    -fvisibility=hidden -Wall -Wextra $(if $(WERROR),-Werror) -MMD -MP -MF $@.d -shared $< \
	    -o $@ -L$(ROCM_PATH)/lib -lamdhip64
EMU_OBJ := $(BUILD)/obj/gpu_emu/plugin.o $(BUILD)/obj/gpu_emu/emulator.o
$(BUILD)/obj/gpu_emu/plugin.o: $(GPU_SRC) $(BUILD)/flags
$(BUILD)/obj/gpu_emu/emulator.o: tests/gpu_emu/emulator.cpp $(BUILD)/flags
$(EMU_OBJ):
	$(dir)
	$(call say,c++ )
	$(Q)$(CXX) -std=c++20 -O1 -g1 -mfma -mf16c -ffp-contract=off -fPIC -fvisibility=hidden \
	    -DGPU_EMULATED -Itests/gpu_emu -Iinclude -Isrc -Wall -Wextra -Wno-unknown-pragmas \
	    $(if $(WERROR),-Werror) -MMD -MP -c -x c++ $< -o $@
$(BUILD)/plugins/libgreta-emu.so: $(EMU_OBJ)
	$(dir)
	$(call say,link)
	$(Q)$(CXX) -shared $(EMU_OBJ) -o $@

-include $(EMU_OBJ:.o=.d)
-include $(VENDOR_PLUGINS:=.d)

# Where plugins are looked for last (src/engine/device_find.c).
$(BUILD)/libdir: FORCE
	$(dir)
	@echo '$(LIBDIR)' | cmp -s - $@ || echo '$(LIBDIR)' >$@
$(BUILD)/obj/src/engine/device_find.o: EXTRA = -Isrc -DGRETA_LIBDIR='"$(LIBDIR)"'
$(BUILD)/obj/src/engine/device_find.o: $(BUILD)/libdir

reference_is = -DREFERENCE_NAME='"$(1)"'
reference_oldinterface = $(call reference_is,oldinterface) -DREFERENCE_VERSION=0
reference_otherarithmetic = $(call reference_is,otherarithmetic) -DREFERENCE_ARITHMETIC=999
# The exam's: its memory is zero at first, its devices have one mistake each and no other manners.
reference_faulty = $(call reference_is,faulty) -DREFERENCE_POISON=0 -DREFERENCE_SPECIAL=1000
$(BUILD)/plugins/libgreta-faulty.so: tests/plugin/faulty_ops.c
$(PLUGINS): $(BUILD)/plugins/libgreta-%.so: tests/plugin/plugin_reference.c \
                                                 tests/plugin/reference_ops.c $(STATIC)
	$(dir)
	$(call say,link)
	$(Q)$(COMPILE) -Isrc $(reference_$*) $(if $(WERROR),-Werror) -shared $(LDFLAGS) \
	    -Wl,--as-needed -Wl,--exclude-libs,ALL $(filter %.c,$^) $(STATIC) $(LIBS) -o $@

# ---- Use -----------------------------------------------------------------------------------------

deps:      ## install what is missing: Debian packages, and Python packages into BUILD/venv
	@sh tools/deps.sh check $(BUILD)

check: deps ## run the tests; T=gguf,san picks parts, GRETA_OFFLINE=1 skips what downloads
	@python3 tests/run.py --build '$(BUILD)' --cc '$(CC)' --san '$(SAN)' --jobs $(JOBS) $(T)

check-long: deps ## the whole volume: every configuration, fault and build: hours
	@python3 tests/run.py --long --build '$(BUILD)' --cc '$(CC)' --jobs $(JOBS) $(T)

HF_VENV ?= $(BUILD)/hf-venv
check-hf: $(BUILD)/greta ## against Hugging Face transformers: 6 GB in HF_VENV; T=gemma3
	@sh tests/hf/run.sh '$(BUILD)' '$(HF_VENV)' $(if $(T),-k '$(T)')

check-peer: all deps ## beside a llama.cpp: PEER=its source, PEER_LIB=its libraries (PEER/build/bin)
	@sh tests/peer/run.sh '$(BUILD)' '$(PEER)' '$(PEER_LIB)' $(if $(T),-k '$(T)')

DEVICE ?= cuda
DEVICE_PLUGIN := $(BUILD)/plugins/libgreta-$(firstword $(subst :, ,$(DEVICE))).so
check-gpu: deps $(DEVICE_PLUGIN) ## a device against the CPU, bit for bit: DEVICE=cuda:1, hip, emu
	@python3 tests/run.py --device '$(DEVICE)' --build '$(BUILD)' --cc '$(CC)' --jobs $(JOBS) $(T)

score: deps tools $(BUILD)/greta ## the exam: an hour; SCORE='real --faults rope'; goes on
	@sh tests/score.sh '$(BUILD)' $(JOBS) $(SCORE)
score-readme: $(BUILD)/greta ## README's table and docs/score.md, from what `make score` has left
	@python3 tools/score_readme.py $(BUILD)/greta $(BUILD)/score

golden: tools ## add digests of a new arithmetic version or weight type; FORCE=1 changes any
	@GRETA_TOOLS=$(BUILD)/tools GRETA_TMP=$(BUILD) \
	    $(BUILD)/tools/golden_tool write tests/golden $(if $(FORCE),force)

# Static programs, for machines that have none of our libraries.
golden-kit: ## BUILD/golden-kit.tar.gz, to check the digests elsewhere: unpack, sh golden.sh
	+$(MAKE) --no-print-directory BUILD=$(BUILD)/static LDFLAGS=-static TEST_LIBS= \
	    $(patsubst %,$(BUILD)/static/tools/%,golden_tool matrix_tool mkmodel)
	tar -czf $(BUILD)/golden-kit.tar.gz -C $(BUILD)/static/tools golden_tool matrix_tool mkmodel \
	    -C $(CURDIR)/tests golden golden.sh

ulp: $(BUILD)/tools/ulp_tool ## error of exp and its kin over all floats against docs/numerics.md
	@$< docs/numerics.md

demo:      ## the main job on a real model, in under a minute after the download
	@sh tools/deps.sh run $(BUILD)
	@+$(MAKE) --no-print-directory -j$(JOBS) $(BUILD)/greta
	@sh examples/demo.sh $(BUILD)

install: lib $(BUILD)/greta $(VENDOR_PLUGINS) ## install all but tests; PREFIX, DESTDIR, GPU
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(LIBDIR)/pkgconfig
	install -m 755 $(BUILD)/greta $(DESTDIR)$(PREFIX)/bin/greta
	install -m 644 include/greta.h $(DESTDIR)$(PREFIX)/include/greta.h
	install -m 644 $(STATIC) $(DESTDIR)$(LIBDIR)/libgreta.a
	install -m 644 $(SHARED) $(DESTDIR)$(LIBDIR)/$(notdir $(SHARED))
	ln -sf $(notdir $(SHARED)) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libgreta.so
	$(if $(GPU),install -d $(DESTDIR)$(LIBDIR)/greta && install -m 755 $(VENDOR_PLUGINS) \
	    $(DESTDIR)$(LIBDIR)/greta)
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@VERSION@|$(VERSION)|' \
	    greta.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/greta.pc

uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(PREFIX)/bin/greta $(DESTDIR)$(PREFIX)/include/greta.h \
	      $(DESTDIR)$(LIBDIR)/pkgconfig/greta.pc $(DESTDIR)$(LIBDIR)/libgreta.a \
	      $(DESTDIR)$(LIBDIR)/libgreta.so $(DESTDIR)$(LIBDIR)/$(SONAME) \
	      $(DESTDIR)$(LIBDIR)/$(notdir $(SHARED)) $(DESTDIR)$(LIBDIR)/greta/libgreta-cuda.so \
	      $(DESTDIR)$(LIBDIR)/greta/libgreta-hip.so

clean:     ## remove BUILD
	rm -rf $(BUILD)

help:      ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20
	@echo "Variables: BUILD=build CC=gcc CFLAGS='-O2 -g1' PREFIX=/usr/local DESTDIR= JOBS=$(JOBS)"
	@echo "           WERROR=1 (warnings are errors) SAN=address,undefined (sanitizers) V=1 (commands)"
