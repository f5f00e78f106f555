/* Functions of librdkafka, as it promises that they stay since 1.0. Nothing is linked: they are looked up by name. */

#ifndef LIBRDKAFKA_H
#define LIBRDKAFKA_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <sys/types.h>

#define NAME "beam_exactly_once"

typedef struct {
    int error;
    void *topic;
    int32_t partition;
    void *value;
    size_t value_size;
    void *key;
    size_t key_size;
    int64_t offset;
    void *private;
} message;

typedef int on_new(void *client, const void *config, void *opaque, char *text, size_t text_size);
typedef int on_destroy(void *client, void *opaque);
typedef int on_conf_set(void *config, const char *name, const char *value, char *text, size_t text_size, void *opaque);
typedef void on_error(void *client, int code, const char *text, void *opaque);

typedef struct {
    int (*version)(void);
    int (*conf_interceptor_add_on_new)(void *config, const char *name, on_new *call, void *opaque);
    int (*conf_interceptor_add_on_conf_set)(void *config, const char *name, on_conf_set *call, void *opaque);
    int (*interceptor_add_on_destroy)(void *client, const char *name, on_destroy *call, void *opaque);
    void (*conf_set_error_cb)(void *config, on_error *call);
    int (*conf_get)(const void *config, const char *name, char *value, size_t *size);
    int (*fatal_error)(void *client, char *text, size_t size);
    void *(*queue_get_partition)(void *client, const char *topic, int32_t partition);
    void (*queue_forward)(void *queue, void *to);
    void (*queue_destroy)(void *queue);
    ssize_t (*consume_batch_queue)(void *queue, int wait_ms, message **taken, size_t size);
    void (*message_destroy)(message *one);
    const char *(*message_errstr)(const message *one);
    int64_t (*message_timestamp)(const message *one, int *type);
    int (*message_headers)(const message *one, void **headers);
    int (*header_get_all)(const void *headers, size_t index, const char **name, const void **value, size_t *size);
} librdkafka;

extern librdkafka kafka;

PyObject *load_librdkafka(PyObject *module, PyObject *args);

#endif
