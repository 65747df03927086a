"""The networks. Only this room knows linen; everyone else sees `apply(params, ...)`."""
