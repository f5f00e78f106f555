/* Clients that confluent-kafka makes, as librdkafka tells a plugin of them. */

#ifndef CLIENTS_H
#define CLIENTS_H

#include "librdkafka.h"

#include <stdatomic.h>

typedef struct client {
    _Atomic(void *) handle; /* NULL: librdkafka has destroyed it */
    atomic_int owners;
    PyObject *callback; /* who holds the interpreter may use it */
    struct client *next;
} client;

void watch_forks(void);
void let_go(client *one);
PyObject *newest_client(PyObject *module, PyObject *callback);

#endif
