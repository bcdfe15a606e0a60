"""The life of a job: offers and prices, job and attempts, the store, the driver, backends, the report."""
