# SPDX-License-Identifier: Apache-2.0
# tests/base/rng_test.c becomes the CTest test "base.rng"; so do shell scripts.
pkg_check_modules(CMOCKA IMPORTED_TARGET cmocka)
if(NOT CMOCKA_FOUND)
  message(FATAL_ERROR "cmocka not found, which the tests need. Debian, Ubuntu: apt install libcmocka-dev; "
    "Fedora: dnf install libcmocka-devel; Homebrew: brew install cmocka. Without tests: -DSY_TESTS=OFF")
endif()
set(SY_TEST_ROOT ${CMAKE_CURRENT_SOURCE_DIR}/tests)
set(SY_TEST_ENVIRONMENT
  "STEELYARD_ROOT=${CMAKE_CURRENT_SOURCE_DIR}"
  "STEELYARD_BIN=${CMAKE_CURRENT_BINARY_DIR}/steelyard"
  "STEELYARD_BUILD=${CMAKE_CURRENT_BINARY_DIR}"
  "OMP_WAIT_POLICY=passive" # threads that spin at barriers make a shared machine crawl
  "UBSAN_OPTIONS=print_stacktrace=1")
set(SY_TEST_TIMEOUT 600) # for what hangs; a busy disk alone makes the tests that sync take a minute

# Code that several tests share: tests/support/*.c
file(GLOB SY_TEST_SUPPORT CONFIGURE_DEPENDS ${SY_TEST_ROOT}/support/*.c)
add_library(sy_test_support INTERFACE)
if(SY_TEST_SUPPORT)
  add_library(sy_test_support_objects STATIC ${SY_TEST_SUPPORT})
  target_include_directories(sy_test_support_objects PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src ${SY_TEST_ROOT})
  target_link_libraries(sy_test_support_objects PRIVATE ${SY_STATIC} sy_dependencies PkgConfig::CMOCKA)
  target_link_libraries(sy_test_support INTERFACE sy_test_support_objects)
endif()

file(GLOB_RECURSE SY_TEST_SOURCES CONFIGURE_DEPENDS ${SY_TEST_ROOT}/*_test.c)
foreach(source ${SY_TEST_SOURCES})
  file(RELATIVE_PATH name ${SY_TEST_ROOT} ${source})
  string(REGEX REPLACE "_test\\.c$" "" name ${name})
  string(REPLACE "/" "." name ${name})
  add_executable(test.${name} ${source})
  set_target_properties(test.${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/tests)
  target_include_directories(test.${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src ${SY_TEST_ROOT})
  target_link_libraries(test.${name} PRIVATE sy_test_support ${SY_STATIC} sy_dependencies PkgConfig::CMOCKA)
  add_test(NAME ${name} COMMAND test.${name} WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${SY_TEST_TIMEOUT} ENVIRONMENT "${SY_TEST_ENVIRONMENT}")
endforeach()

file(GLOB_RECURSE SY_TEST_SCRIPTS CONFIGURE_DEPENDS ${SY_TEST_ROOT}/*_test.sh)
foreach(source ${SY_TEST_SCRIPTS})
  file(RELATIVE_PATH name ${SY_TEST_ROOT} ${source})
  string(REGEX REPLACE "_test\\.sh$" "" name ${name})
  string(REPLACE "/" "." name ${name})
  add_test(NAME ${name} COMMAND bash ${source} WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${SY_TEST_TIMEOUT} ENVIRONMENT "${SY_TEST_ENVIRONMENT}")
endforeach()

# Programs that comparisons with other tools talk to: tests/referee/*.c
file(GLOB SY_REFEREES CONFIGURE_DEPENDS ${SY_TEST_ROOT}/referee/*.c)
foreach(source ${SY_REFEREES})
  get_filename_component(name ${source} NAME_WE)
  add_executable(referee.${name} ${source})
  set_target_properties(referee.${name} PROPERTIES OUTPUT_NAME ${name} RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/referee)
  target_include_directories(referee.${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src ${SY_TEST_ROOT})
  target_link_libraries(referee.${name} PRIVATE ${SY_STATIC} sy_dependencies)
endforeach()

# tests/fuzz/yaml_fuzz.c is a libFuzzer program with -DSY_FUZZ=ON (clang). Here, with
# any compiler, it is the test "fuzz.yaml": every file of tests/fuzz/corpus/yaml, and
# the same files cut off and with flipped bits, go through it.
file(GLOB SY_FUZZ_SOURCES CONFIGURE_DEPENDS ${SY_TEST_ROOT}/fuzz/*_fuzz.c)
foreach(source ${SY_FUZZ_SOURCES})
  get_filename_component(name ${source} NAME_WE)
  string(REGEX REPLACE "_fuzz$" "" name ${name})
  add_executable(test.fuzz.${name} ${source} ${SY_TEST_ROOT}/fuzz/replay.c)
  set_target_properties(test.fuzz.${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/tests)
  target_include_directories(test.fuzz.${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src ${SY_TEST_ROOT})
  target_link_libraries(test.fuzz.${name} PRIVATE ${SY_STATIC} sy_dependencies)
  add_test(NAME fuzz.${name} COMMAND test.fuzz.${name} ${SY_TEST_ROOT}/fuzz/corpus/${name}
    WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
  set_tests_properties(fuzz.${name} PROPERTIES TIMEOUT ${SY_TEST_TIMEOUT} ENVIRONMENT "${SY_TEST_ENVIRONMENT}")
endforeach()
