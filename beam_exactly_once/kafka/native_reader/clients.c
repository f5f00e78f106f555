#include "clients.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PUBLIC __attribute__((visibility("default")))
#define LAST_PROPERTY "log.queue"
#define NOT_MINE (-2)
#define FATAL (-150)

static client *known; /* those that live */
static pthread_mutex_t known_lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local client *created;

static void lock_known(void) { pthread_mutex_lock(&known_lock); }
static void unlock_known(void) { pthread_mutex_unlock(&known_lock); }

void watch_forks(void) { pthread_atfork(lock_known, unlock_known, unlock_known); }

void let_go(client *one)
{
    if (one != NULL && atomic_fetch_sub(&one->owners, 1) == 1)
        free(one);
}

static void call_back(void *handle, int code, const char *text, void *opaque)
{
    char fatal[512];
    (void)opaque;
    lock_known();
    client *one = known;
    while (one != NULL && atomic_load(&one->handle) != handle)
        one = one->next;
    if (one != NULL)
        atomic_fetch_add(&one->owners, 1);
    unlock_known();
    if (one == NULL)
        return;
    int is_fatal = code == FATAL;
    if (is_fatal) {
        code = kafka.fatal_error(handle, fatal, sizeof fatal);
        text = fatal;
    }
    PyGILState_STATE state = PyGILState_Ensure();
    if (one->callback != NULL) {
        PyObject *callback = one->callback;
        Py_INCREF(callback);
        PyObject *answer = PyObject_CallFunction(callback, "iyi", code, text == NULL ? "" : text, is_fatal);
        if (answer == NULL)
            PyErr_WriteUnraisable(callback);
        Py_XDECREF(answer);
        Py_DECREF(callback);
    }
    PyGILState_Release(state);
    let_go(one);
}

static int note_destroyed(void *handle, void *opaque)
{
    client *one = opaque;
    (void)handle;
    lock_known();
    for (client **at = &known; *at != NULL; at = &(*at)->next) {
        if (*at == one) {
            *at = one->next;
            break;
        }
    }
    atomic_store(&one->handle, NULL);
    unlock_known();
    let_go(one);
    return 0;
}

static int note_new(void *handle, const void *config, void *opaque, char *text, size_t text_size)
{
    char callback[32] = "", ours[32];
    size_t size = sizeof callback;
    (void)opaque, (void)text, (void)text_size;
    let_go(created);
    created = NULL;
    snprintf(ours, sizeof ours, "%p", (void *)(uintptr_t)call_back);
    if (kafka.conf_get(config, "error_cb", callback, &size) || strcmp(callback, ours))
        return 0; /* another callback: the client is read as before */
    client *one = calloc(1, sizeof *one);
    if (one == NULL)
        return 0;
    atomic_init(&one->handle, handle);
    atomic_init(&one->owners, 2);
    if (kafka.interceptor_add_on_destroy(handle, NAME, note_destroyed, one)) {
        free(one);
        return 0;
    }
    lock_known();
    one->next = known;
    known = one;
    unlock_known();
    created = one;
    return 0;
}

static int note_property(void *config, const char *name, const char *value, char *text, size_t text_size, void *opaque)
{
    (void)value, (void)text, (void)text_size, (void)opaque;
    if (strcmp(name, LAST_PROPERTY) == 0)
        kafka.conf_set_error_cb(config, call_back);
    return NOT_MINE;
}

/* librdkafka calls it by this name when it loads the plugin. */
PUBLIC int conf_init(void *config, void **opaque, char *text, size_t text_size)
{
    (void)opaque, (void)text, (void)text_size;
    if (kafka.version != NULL) {
        kafka.conf_interceptor_add_on_conf_set(config, NAME, note_property, NULL);
        kafka.conf_interceptor_add_on_new(config, NAME, note_new, NULL);
    }
    return 0;
}

static void forget_client(PyObject *capsule)
{
    client *one = PyCapsule_GetPointer(capsule, NAME);
    Py_CLEAR(one->callback);
    let_go(one);
}

PyObject *newest_client(PyObject *module, PyObject *callback)
{
    (void)module;
    if (created == NULL)
        Py_RETURN_NONE;
    PyObject *capsule = PyCapsule_New(created, NAME, forget_client);
    if (capsule != NULL) {
        Py_INCREF(callback);
        created->callback = callback;
        created = NULL;
    }
    return capsule;
}
