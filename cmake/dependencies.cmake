# SPDX-License-Identifier: Apache-2.0
# Finds what the library stands on and gathers it in the interface target
# sy_dependencies. SY_PC_REQUIRES and SY_PC_LIBS go into steelyard.pc.
find_package(PkgConfig REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS C)
find_package(ZLIB REQUIRED)

pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(YAML REQUIRED IMPORTED_TARGET yaml-0.1)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(PNG REQUIRED IMPORTED_TARGET libpng)
pkg_check_modules(JPEG REQUIRED IMPORTED_TARGET libjpeg)
set(SY_PC_REQUIRES "jansson yaml-0.1 libpcre2-8 libutf8proc libxxhash zlib libpng libjpeg")

# find_library/find_path with a message that says what to install.
macro(sy_need var kind what)
  if(NOT ${var})
    message(FATAL_ERROR "${what} not found (${kind}). Debian, Ubuntu: apt install libdnnl-dev "
      "libopenblas-openmp-dev liblapacke-dev; Fedora: dnf install onednn-devel openblas-devel lapack-devel; "
      "Homebrew: brew install onednn openblas libomp. Or set ${var}.")
  endif()
endmacro()

set(SY_HINTS /opt/homebrew /opt/homebrew/opt/openblas /usr/local /usr/local/opt/openblas)

# oneDNN 2.6 to 3.x. Its CMake package is not used: Debian's wants OpenCL headers.
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.h HINTS ${SY_HINTS} PATH_SUFFIXES include)
find_library(DNNL_LIBRARY dnnl HINTS ${SY_HINTS} PATH_SUFFIXES lib)
sy_need(DNNL_INCLUDE_DIR headers oneDNN)
sy_need(DNNL_LIBRARY library oneDNN)

# The OpenMP build of OpenBLAS, so that there is one pool of threads: a folder
# of its own in Debian, another name (openblaso) in Fedora.
find_library(OPENBLAS_LIBRARY NAMES openblaso openblas HINTS ${SY_HINTS}
  PATH_SUFFIXES ${CMAKE_LIBRARY_ARCHITECTURE}/openblas-openmp openblas-openmp lib)
find_path(OPENBLAS_INCLUDE_DIR cblas.h HINTS ${SY_HINTS}
  PATH_SUFFIXES ${CMAKE_LIBRARY_ARCHITECTURE}/openblas-openmp openblas-openmp openblas include)
find_path(LAPACKE_INCLUDE_DIR lapacke.h HINTS ${SY_HINTS} PATH_SUFFIXES openblas lapacke include)
sy_need(OPENBLAS_LIBRARY library OpenBLAS)
sy_need(OPENBLAS_INCLUDE_DIR headers OpenBLAS)
sy_need(LAPACKE_INCLUDE_DIR headers LAPACKE)

# LAPACKE is inside OpenBLAS, except where the distribution takes it out.
include(CheckLibraryExists)
set(CMAKE_REQUIRED_LIBRARIES m)
check_library_exists(${OPENBLAS_LIBRARY} LAPACKE_dgesvd "" SY_OPENBLAS_HAS_LAPACKE)
unset(CMAKE_REQUIRED_LIBRARIES)
set(SY_LAPACK_LIBRARIES ${OPENBLAS_LIBRARY})
if(NOT SY_OPENBLAS_HAS_LAPACKE)
  find_library(LAPACKE_LIBRARY lapacke)
  sy_need(LAPACKE_LIBRARY library LAPACKE)
  set(SY_LAPACK_LIBRARIES ${LAPACKE_LIBRARY} ${OPENBLAS_LIBRARY})
endif()

add_library(sy_dependencies INTERFACE)
target_compile_definitions(sy_dependencies INTERFACE _GNU_SOURCE)
target_include_directories(sy_dependencies SYSTEM INTERFACE
  ${OPENBLAS_INCLUDE_DIR} ${LAPACKE_INCLUDE_DIR} ${DNNL_INCLUDE_DIR})
target_link_libraries(sy_dependencies INTERFACE
  PkgConfig::JANSSON PkgConfig::YAML PkgConfig::PCRE2 PkgConfig::UTF8PROC PkgConfig::XXHASH
  PkgConfig::PNG PkgConfig::JPEG
  ZLIB::ZLIB OpenMP::OpenMP_C ${DNNL_LIBRARY} ${SY_LAPACK_LIBRARIES} m)

# liblapacke itself asks for liblapack.so.3 and libblas.so.3, which may lead to
# another BLAS with another pool of threads: an rpath that libraries inherit
# (DT_RPATH, not DT_RUNPATH) keeps all of them in OpenBLAS' folder.
get_filename_component(SY_OPENBLAS_DIR ${OPENBLAS_LIBRARY} DIRECTORY)
if(SY_OPENBLAS_DIR MATCHES "openblas" AND NOT APPLE)
  list(APPEND CMAKE_BUILD_RPATH ${SY_OPENBLAS_DIR})
  list(APPEND CMAKE_INSTALL_RPATH ${SY_OPENBLAS_DIR})
  add_link_options("LINKER:--disable-new-dtags")
endif()

set(SY_PC_LIBS "-L${SY_OPENBLAS_DIR}")
foreach(library ${DNNL_LIBRARY} ${SY_LAPACK_LIBRARIES})
  get_filename_component(name ${library} NAME_WE)
  string(REGEX REPLACE "^lib" "-l" name ${name})
  string(APPEND SY_PC_LIBS " ${name}")
endforeach()
string(APPEND SY_PC_LIBS " ${OpenMP_C_FLAGS} -lm")
