# SPDX-License-Identifier: Apache-2.0
# Man pages and the bash completion: written by the command itself after it is built,
# from the same rows that it obeys, and installed with it.
if(TARGET steelyard_command AND NOT CMAKE_CROSSCOMPILING)
  set(SY_MANUAL ${CMAKE_CURRENT_BINARY_DIR}/manual)
  add_custom_command(OUTPUT ${SY_MANUAL}/stamp
    COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/tools/manual $<TARGET_FILE:steelyard_command> ${SY_MANUAL}
    COMMAND ${CMAKE_COMMAND} -E touch ${SY_MANUAL}/stamp
    DEPENDS steelyard_command ${CMAKE_CURRENT_SOURCE_DIR}/tools/manual
    COMMENT "Man pages and completion" VERBATIM)
  add_custom_target(manual ALL DEPENDS ${SY_MANUAL}/stamp)
  install(DIRECTORY ${SY_MANUAL}/man1 DESTINATION ${CMAKE_INSTALL_MANDIR})
  install(FILES ${SY_MANUAL}/completion/steelyard DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
endif()
