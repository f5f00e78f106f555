/* Records as the buffers of Arrow columns. */

#ifndef COLUMNS_H
#define COLUMNS_H

#include "librdkafka.h"

enum {
    OFFSETS, TIMESTAMPS, TYPES,
    KEY_IS, KEY_ENDS, KEYS,
    VALUE_IS, VALUE_ENDS, VALUES,
    HEADER_ENDS, NAME_ENDS, NAMES, TEXT_IS, TEXT_ENDS, TEXTS,
    BUFFERS
};

typedef struct {
    char *bytes;
    size_t size, capacity;
} buffer;

typedef struct {
    buffer of[BUFFERS];
    size_t rows, headers, null_keys, null_values, null_texts, bytes;
} columns;

/* Empty ones, with room for as much as those before; NULL where there is no memory. */
columns *new_columns(const columns *before);
void free_columns(columns *all);

enum { NO_MEMORY = -1, TOO_LARGE, ADDED };

int add_row(columns *all, const message *one, int wants_headers);

#endif
