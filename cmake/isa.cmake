# SPDX-License-Identifier: Apache-2.0
# One binary for old and new processors: a file named X_avx2.c, X_avx512.c,
# X_avx512bf16.c or X_neon.c is compiled with that instruction set (and chosen
# at run time by its caller); on other architectures it is left out.
function(sy_isa sources)
  set(avx2 -mavx2 -mfma -mf16c)
  set(avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c)
  set(avx512bf16 ${avx512} -mavx512bf16 -mavx512vnni -mavx512vbmi)
  set(neon)
  set(x86 OFF)
  set(arm OFF)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
    set(x86 ON)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    set(arm ON)
  endif()
  set(kept)
  # Random streams and coded blocks are the same bits for every instruction set.
  set(exact "/src/(base/rng|tensor/block_search)[_a-z0-9]*\\.c$")
  foreach(source ${${sources}})
    if(source MATCHES ${exact})
      set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS -ffp-contract=off)
    endif()
    if(source MATCHES "_(avx2|avx512|avx512bf16|neon)\\.c$")
      set(isa ${CMAKE_MATCH_1})
      if((isa STREQUAL "neon" AND arm) OR (NOT isa STREQUAL "neon" AND x86))
        set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS ${${isa}})
        list(APPEND kept ${source})
      endif()
    else()
      list(APPEND kept ${source})
    endif()
  endforeach()
  set(${sources} ${kept} PARENT_SCOPE)
endfunction()

# Numbers of blocks agree bit for bit with GGUF's reference only when products
# and sums are rounded one by one.
foreach(file convert block_decode block_encode)
  set_property(SOURCE ${CMAKE_CURRENT_SOURCE_DIR}/src/tensor/${file}.c APPEND PROPERTY COMPILE_OPTIONS -ffp-contract=off)
endforeach()
