"""Delta Lake tables: one commit of the table's log a batch, with the batch's receipt in it."""
