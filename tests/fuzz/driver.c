/* SPDX-License-Identifier: MIT
 * Starts Python once, takes the address of a target's C function out of the Cython
 * module, and gives it every input of libFuzzer. No Python runs between inputs.
 *
 * Compiled with POOLER_FUZZ_PATH (a list of Python's and our folders, with colons).
 * Environment: POOLER_FUZZ_TARGET names the target.
 */
#include <Python.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sanitizer/lsan_interface.h>

typedef int (*target_fn)(const uint8_t *, size_t);

static target_fn target;

static void give_up(const char *what)
{
    if (PyErr_Occurred())
        PyErr_Print();
    fprintf(stderr, "fuzz: %s\n", what);
    _Exit(2);
}

static void add_path(PyConfig *config, const char *start, size_t n)
{
    char part[4096];
    wchar_t *wide;
    if (n >= sizeof(part))
        give_up("a path is too long");
    memcpy(part, start, n);
    part[n] = 0;
    wide = Py_DecodeLocale(part, NULL);
    if (wide == NULL)
        give_up("no memory for a path");
    if (PyStatus_Exception(PyWideStringList_Append(&config->module_search_paths, wide)))
        give_up("no memory for a path");
    PyMem_RawFree(wide);
}

static void start_python(void)
{
    PyConfig config;
    const char *path = POOLER_FUZZ_PATH;
    PyConfig_InitIsolatedConfig(&config);
    config.module_search_paths_set = 1;
    config.site_import = 0;
    config.write_bytecode = 0;
    while (*path) {
        size_t n = strcspn(path, ":");
        add_path(&config, path, n);
        path += n + (path[n] == ':');
    }
    if (PyStatus_Exception(Py_InitializeFromConfig(&config)))
        give_up("Python does not start");
    PyConfig_Clear(&config);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *name = getenv("POOLER_FUZZ_TARGET");
    PyObject *module, *address;
    (void)argc;
    (void)argv;
    if (name == NULL)
        give_up("POOLER_FUZZ_TARGET is not set");
    __lsan_disable(); /* what Python keeps for ever is none of our business */
    start_python();
    module = PyImport_ImportModule("tests.fuzz._target");
    if (module == NULL)
        give_up("tests.fuzz._target cannot be imported");
    address = PyObject_CallMethod(module, "address_of", "s", name);
    if (address == NULL)
        give_up("no such target");
    target = (target_fn)(uintptr_t)PyLong_AsUnsignedLongLong(address);
    if (target == NULL || PyErr_Occurred())
        give_up("no such target");
    __lsan_enable();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return target(data, size);
}
