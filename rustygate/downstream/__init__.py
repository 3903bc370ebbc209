"""The client's side: listening sockets, connections, request bodies, responses, CORS."""
