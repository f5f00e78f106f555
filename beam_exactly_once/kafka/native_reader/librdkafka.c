#include "librdkafka.h"

#include <dlfcn.h>
#include <string.h>

librdkafka kafka;

PyObject *load_librdkafka(PyObject *module, PyObject *args)
{
    static const struct {
        const char *name;
        void *place;
    } functions[] = {
        {"rd_kafka_version", &kafka.version},
        {"rd_kafka_conf_interceptor_add_on_new", &kafka.conf_interceptor_add_on_new},
        {"rd_kafka_conf_interceptor_add_on_conf_set", &kafka.conf_interceptor_add_on_conf_set},
        {"rd_kafka_interceptor_add_on_destroy", &kafka.interceptor_add_on_destroy},
        {"rd_kafka_conf_set_error_cb", &kafka.conf_set_error_cb},
        {"rd_kafka_conf_get", &kafka.conf_get},
        {"rd_kafka_fatal_error", &kafka.fatal_error},
        {"rd_kafka_queue_get_partition", &kafka.queue_get_partition},
        {"rd_kafka_queue_forward", &kafka.queue_forward},
        {"rd_kafka_queue_destroy", &kafka.queue_destroy},
        {"rd_kafka_consume_batch_queue", &kafka.consume_batch_queue},
        {"rd_kafka_message_destroy", &kafka.message_destroy},
        {"rd_kafka_message_errstr", &kafka.message_errstr},
        {"rd_kafka_message_timestamp", &kafka.message_timestamp},
        {"rd_kafka_message_headers", &kafka.message_headers},
        {"rd_kafka_header_get_all", &kafka.header_get_all},
    };
    const char *path;
    (void)module;
    if (!PyArg_ParseTuple(args, "s", &path))
        return NULL;
    /* A search in what is loaded already begins at the file, and goes on in the libraries that it needs. */
    void *library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    if (library == NULL)
        return PyErr_Format(PyExc_ImportError, "%s is not loaded", path);
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *found = dlsym(library, functions[i].name);
        if (found == NULL) {
            memset(&kafka, 0, sizeof kafka);
            return PyErr_Format(PyExc_ImportError, "%s leads to no function %s", path, functions[i].name);
        }
        memcpy(functions[i].place, &found, sizeof found);
    }
    return PyLong_FromLong(kafka.version());
}
