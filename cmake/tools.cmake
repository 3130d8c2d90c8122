# SPDX-License-Identifier: Apache-2.0
# tools/NAME.c becomes build/tools/NAME: small programs of the source tree (they make
# models/tiny) that are built with everything else and not installed.
file(GLOB SY_TOOLS CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/tools/*.c)
foreach(source ${SY_TOOLS})
  get_filename_component(name ${source} NAME_WE)
  add_executable(tool.${name} ${source})
  set_target_properties(tool.${name} PROPERTIES OUTPUT_NAME ${name}
    RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/tools)
  target_include_directories(tool.${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src)
  target_link_libraries(tool.${name} PRIVATE ${SY_STATIC} sy_dependencies)
endforeach()
