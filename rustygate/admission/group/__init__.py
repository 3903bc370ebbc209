"""A gate as a member of a group: gates that share one quota and one fair order."""
