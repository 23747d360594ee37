"""HTTP conventions that every resource shares. A resource declares them; nothing here names a resource."""
