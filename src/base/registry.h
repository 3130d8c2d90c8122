/* SPDX-License-Identifier: Apache-2.0 */
/* The registry: everything that plugs in, found by the build from file names
 * (cmake/registry.cmake writes its only source). Each array ends with NULL. */
#ifndef SYI_REGISTRY_H
#define SYI_REGISTRY_H

struct sy_method;
struct sy_storage;
struct sy_arch;
struct sy_verb;
struct sy_experiment;

extern const struct sy_method *const syi_methods[];
extern const struct sy_storage *const syi_storages[];
extern const struct sy_arch *const syi_archs[];
extern const struct sy_verb *const syi_verbs[];
extern const struct sy_experiment *const syi_experiments[];

#endif
