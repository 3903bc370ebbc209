"""The variables that code refers to by name; all others follow from the fields of `Settings`."""

API_KEY, API_KEY_FILE = "OPENAI_API_KEY", "OPENAI_API_KEY_FILE"
ADMIN_KEY, ADMIN_KEY_FILE = "ADMIN_KEY", "ADMIN_KEY_FILE"
REDIS_URL, REDIS_URL_FILE = "REDIS_URL", "REDIS_URL_FILE"
GATE_GROUP = "GATE_GROUP"
DATA_DIR = "DATA_DIR"
RATE_LIMIT, RATE_LIMIT_BURST = "RATE_LIMIT", "RATE_LIMIT_BURST"
TOKENS_PER_MINUTE, CONCURRENCY_LIMIT = "TOKENS_PER_MINUTE", "CONCURRENCY_LIMIT"
BASE_URL = "OPENAI_BASE_URL"
BIND_ADDRESS, PORT = "BIND_ADDRESS", "PORT"
CLIENTS_FILE = "CLIENTS_FILE"
PRICES_FILE = "PRICES_FILE"
TLS_CERT_FILE, TLS_KEY_FILE = "TLS_CERT_FILE", "TLS_KEY_FILE"
SSL_CERT_FILE, SSL_CERT_DIR = "SSL_CERT_FILE", "SSL_CERT_DIR"

# Certificate authorities that are trusted for upstream and Redis.
CA_VARIABLES = (SSL_CERT_FILE, SSL_CERT_DIR)

# Read in both spellings; lower case takes precedence, as in urllib and curl.
PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")

# Each secret, and the variable that names a file to read it from instead.
SECRET_FILES = {API_KEY: API_KEY_FILE, ADMIN_KEY: ADMIN_KEY_FILE, REDIS_URL: REDIS_URL_FILE}

# The directory in which systemd puts the credentials of LoadCredential=, and the upstream key's
# name there.
CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"
CREDENTIAL = "openai_api_key"

# The directories of systemd's StateDirectory=, separated by colons.
STATE_DIRECTORY = "STATE_DIRECTORY"
