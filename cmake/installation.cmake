# SPDX-License-Identifier: Apache-2.0
# `cmake --install`: headers, library, steelyard.pc (the command installs itself).
install(TARGETS steelyard
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/steelyard DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")

# As in cmake/dependencies.cmake: all of LAPACK from OpenBLAS' folder.
if(SY_OPENBLAS_DIR MATCHES "openblas" AND NOT APPLE)
  string(APPEND SY_PC_LIBS " -Wl,-rpath,${SY_OPENBLAS_DIR} -Wl,--disable-new-dtags")
endif()

# A static library hands its own dependencies on; a shared one keeps them.
if(BUILD_SHARED_LIBS)
  set(SY_PC_PRIVATE_REQUIRES "Requires.private: ${SY_PC_REQUIRES}")
  set(SY_PC_PRIVATE_LIBS "Libs.private: ${SY_PC_LIBS}")
  set(SY_PC_OWN_LIBS "-L\${libdir} -lsteelyard")
else()
  set(SY_PC_PRIVATE_REQUIRES "Requires: ${SY_PC_REQUIRES}")
  set(SY_PC_PRIVATE_LIBS "")
  set(SY_PC_OWN_LIBS "-L\${libdir} -lsteelyard ${SY_PC_LIBS}")
endif()
configure_file(${CMAKE_CURRENT_SOURCE_DIR}/cmake/steelyard.pc.in
  ${CMAKE_CURRENT_BINARY_DIR}/generated/steelyard.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/generated/steelyard.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
