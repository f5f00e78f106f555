/* Messages of librdkafka into Arrow buffers, without the interpreter.

   The client stays the one that confluent-kafka made, with its configuration, its threads and its callbacks; only its records are
   taken here, from the queue of one partition. Two things come without a promise that anybody could break:

   - librdkafka is the one that confluent-kafka has loaded. Nothing is linked: its functions are looked up by name (librdkafka.h).
   - The client is learned from an interceptor (clients.h). librdkafka loads this module as a plugin, and tells it of each client
     that is made and destroyed. No layout of an object of confluent-kafka is known here.

   Some errors of a partition call back from its queue, and confluent-kafka's own callback aborts the process outside of its calls.
   So it is replaced: by an interceptor of the one property that confluent-kafka sets after its callback. A client whose callback is
   still another one when it is made is not read here. */

#include "clients.h"

extern PyType_Spec partition_spec;

static PyMethodDef functions[] = {
    {"load", load_librdkafka, METH_VARARGS, NULL},
    {"newest_client", newest_client, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native_reader", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native_reader(void)
{
    PyObject *module = PyModule_Create(&definition), *type = PyType_FromSpec(&partition_spec);
    watch_forks();
    if (module == NULL || type == NULL || PyModule_AddObject(module, "Partition", type)) {
        Py_XDECREF(module);
        Py_XDECREF(type);
        return NULL;
    }
    return module;
}
