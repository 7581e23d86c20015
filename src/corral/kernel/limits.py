"""Every bound, with its unit and its reason.

A number that a user must change is a setting (`config`); all others are here.
"""

# -- requests (API docs, errors-limits) -----------------------------------------------------------
REQUEST_BODY_BYTES_MAX = 32 * 1024 * 1024  # documented body limit
# Of a body, while a route waits for it: seconds without a byte, and how many bytes make up for one second.
BODY_SILENCE_SECONDS, BODY_BYTES_PER_SECOND_MIN = 20.0, 8 * 1024
EVENTS_PER_SEND_MAX = 50  # the documented figure for initial events, used for sends too
EVENTS_PER_APPEND_MAX = 8192  # a reply of calls, their results, and a full inbox; a sanity bound
METADATA_PAIRS_MAX, METADATA_KEY_CHARS_MAX, METADATA_VALUE_CHARS_MAX = 16, 64, 512
AGENT_NAME_CHARS_MAX, AGENT_DESCRIPTION_CHARS_MAX, AGENT_SYSTEM_CHARS_MAX = 256, 2048, 100_000
TOOLS_PER_AGENT_MAX, MCP_SERVERS_PER_AGENT_MAX, SKILLS_PER_AGENT_MAX = 256, 20, 64
PAGE_LIMIT_DEFAULT, PAGE_LIMIT_MAX = 20, 100
EVENT_PAGE_LIMIT_DEFAULT, EVENT_PAGE_LIMIT_MAX = 1000, 1000
EVENT_DELTAS_VALUES_MAX = 100
SYSTEM_MESSAGE_ITEMS_MAX = 1000
INTEGER_MAX = 2**53 - 1  # of a version or position that a client sends: exact in every JSON
IDEMPOTENCY_SECONDS = 24 * 3600
IDEMPOTENCY_KEY_CHARS_MAX = 255  # printable ASCII
VALIDATION_ERRORS_SHOWN_MAX = 20  # lines of one 400; a longer list helps nobody
API_KEY_CACHE_SECONDS, API_KEYS_CACHED_MAX = 3.0, 1024  # a revoked key dies on other nodes by then
API_KEY_USE_SECONDS = 60.0  # between two notes of which keys were used: one small write per node and minute
API_KEY_NAME_CHARS_MAX = 256
RATES_KEPT_MAX = 16_384  # credentials whose bucket is not full; they are few unless limits are off
CODED_BODY_BYTES_MIN = 1024  # shorter answers are one packet anyway
CODED_IN_THREAD_BYTES_MIN = 64 * 1024  # what takes longer than a millisecond to pack is done elsewhere
ZSTD_WINDOW_BYTES_MAX = 8 * 1024 * 1024  # memory to unpack a body with; RFC 9659 has it for HTTP
CORS_SECONDS = 600  # for which a browser believes what it was allowed
WORKSPACES_MAX, WORKSPACE_NAME_CHARS_MAX = 1000, 256  # they are listed whole
SESSION_OWNERS_CACHED_MAX = 65_536  # per process, some 20 MB: whose a session is never changes
API_KEY_CHARS_MIN = 16  # of CORRAL_API_KEY, which a person may choose; a shorter one could be guessed
BUDGET_DIGITS_MAX = 15  # of an amount of cents: more is a typing mistake
TITLE_CHARS_MAX = 1024  # a title is one line in a list
ENVIRONMENT_PACKAGES_MAX, PACKAGE_CHARS_MAX = 256, 512  # per manager
ALLOWED_HOSTS_MAX, HOST_NAME_CHARS_MAX = 512, 255
HOST_ENTRIES_KEPT = (
    4096  # of operators' lists, in their parsed form; a list is short, and asked for each request
)
MODEL_ID_CHARS_MAX, ROLE_ARN_CHARS_MAX = 256, 2048
MCP_SERVER_NAME_CHARS_MAX, MCP_URL_CHARS_MAX = 255, 2048
CREDENTIALS_PER_VAULT_MAX = 20  # that are not archived (documented figure)
VAULT_NAME_CHARS_MAX = 255  # of vaults and credentials
SECRET_NAME_CHARS_MAX = 255  # of an environment variable
SECRET_CHARS_MAX = 16_384  # of one secret: a long JWT or a service account's key file fits
CREDENTIAL_HOSTS_MAX = 16  # allowed_hosts of one credential
OAUTH_TEXT_CHARS_MAX = 2048  # client_id, scope, resource: they travel in one token request
SESSION_VAULTS_MAX = 50  # the documented figure for deployments, used for sessions too
INPUT_SCHEMA_DEPTH_MAX = 64  # levels; JSON writers give up at a few hundred
MODEL_BLOCK_DEPTH_MAX = 128  # levels of a block of a reply, which must fit into a request and the log
TOOL_NAME_CHARS_MAX, TOOL_DESCRIPTION_CHARS_MAX = 128, 100_000
THREAD_PAGE_LIMIT_MAX = 1000
MODEL_PAGE_LIMIT_MAX = 1000
INBOX_INTERRUPTS_MAX = 10  # beyond INBOX_EVENTS_MAX, for interrupts alone
INBOX_EVENTS_MAX = 1000  # unprocessed inputs of one session; the next send gets 429
INBOX_BYTES_MAX = 64 * 2**20  # of them, likewise: a brain takes all that waits at once

RETRY_AFTER_SECONDS = 1  # what a 429 or 529 asks its client to wait; SDKs double it by themselves
REQUESTS_IN_FLIGHT_MAX = 2_000  # of one process, event streams aside; the next gets 529
BODIES_BYTES_MAX = 256 * 1024 * 1024  # request bodies in memory at once in one process
ADMISSION_SECONDS = 0.5  # how old what is known of memory and disk may be
MEMORY_FREE_BYTES_MIN = 192 * 1024 * 1024  # of the machine or our cgroup: below it no new work
WRITES_QUEUED_ADMITTED_MAX = 5_000  # half of WRITES_QUEUED_MAX: the rest is for the turns that run
KILL_REASON_CHARS_MAX = 500

# -- streams --------------------------------------------------------------------------------------
STREAMS_OPEN_MAX = 20_000  # of one process: half a gigabyte, and a file each; the next gets 529
SSE_KEEPALIVE_SECONDS = 15.0
PREVIEW_FINALS_KEPT = 64  # ids whose preview is over, per opted-in stream: guards against late deltas
SSE_BUFFER_EVENTS_MAX = 10_000  # a slower reader is closed and resumes by cursor
TAIL_LOOK_SECONDS = 2.0  # an open stream that lost a notification is behind for at most about this long
TAIL_LOOK_SESSIONS_MAX = 1000  # sessions asked about in one statement

# -- bus ------------------------------------------------------------------------------------------
WAKES_MAX = 10_000  # wake hints not yet taken; the sweep finds the sessions of those shed
BUS_FLUSH_SECONDS = 0.003  # between notifications to other nodes: hints of a busy moment share one
BUS_PAYLOAD_BYTES_MAX = 7_900  # PostgreSQL takes fewer than 8,000
BUS_PAYLOADS_PER_FLUSH_MAX = 64  # in one round trip; half a megabyte
BUS_HINTS_MAX = 10_000  # not yet sent, one per session and kind; looks and sweeps make up for more
BUS_ENTRIES_BYTES_MAX = 4_000  # of one commit, sent with the hint; of a larger one only that it happened
BUS_PREVIEWS_BYTES_MAX = 1024 * 1024  # deltas and entries not yet sent; of more, deltas are shed
BUS_CONNECT_SECONDS = 5.0  # a database that does not accept by then is down
BUS_SILENT_SECONDS = 10.0  # a connection whose other end has vanished is noticed by then
BUS_RETRY_SECONDS, BUS_RETRY_SECONDS_MAX = 0.1, 5.0  # between attempts to connect; doubled, for ever
BUS_ROUND_TRIP_SECONDS = 3.0  # a notification to ourselves takes milliseconds; then /readyz warns
BUS_CLOSE_SECONDS = 0.5  # a stopping node still sends its last hints

# -- keys of vaults --------------------------------------------------------------------------------
VAULT_LOOK_SECONDS = 1.0  # how soon an egress node sees that the key is to be changed
VAULT_RESEAL_BATCH = 32  # secrets sealed anew in one transaction and one request to the egress process
EGRESS_REQUEST_BYTES_MAX = 8 * 1024 * 1024  # a batch of secrets of the largest size, as base64
EGRESS_REPLY_SECONDS = 30.0  # until it has sealed a batch anew; a key command may take a while
VAULT_KEY_COMMAND_SECONDS = 20.0  # until vault_key_command has printed the keys
VAULT_KEYS_BYTES_MAX = 65_536  # of a key file: some 500 keys

# -- egress -----------------------------------------------------------------------------------------
EGRESS_PORT = 3128  # of the proxy inside a sandbox, at its own loopback; what proxies usually have
EGRESS_CONNECTIONS_PER_SESSION_MAX = 256  # through the proxy at once; more wait to be accepted
EGRESS_CONNECTIONS_MAX = 4_000  # of all sessions: two descriptors each; more wait, one of each session
EGRESS_LOOKUPS_PER_SESSION_MAX = 8  # names resolved at once: a slow name server holds up its session alone
EGRESS_SERVER_LOOKUPS_MAX = 64  # likewise, of MCP servers of all sessions: one cannot hold up many
EGRESS_GRANT_BYTES_MAX = 256 * 1024  # what a hands host says of a sandbox: 512 hosts of the longest name
EGRESS_HEAD_BYTES_MAX = 64 * 1024  # of a request's or an answer's headers; common servers take 8 to 32 KB
EGRESS_METHOD_CHARS_MAX = 32  # of a request's method; the longest that is registered has 16
EGRESS_HELLO_BYTES_MAX = 64 * 1024  # of a TLS client's first message, which may be four records long
EGRESS_HEAD_SECONDS = 60.0  # from a connection to its request, and between two requests on it
EGRESS_CONNECT_SECONDS = 10.0  # a name that does not resolve, or a host that does not accept, is down
EGRESS_IDLE_SECONDS = 600.0  # no byte either way: WebSockets and long polls send something more often
EGRESS_LINGER_SECONDS = 5.0  # what is refused hears why, while what it still sends is thrown away
EGRESS_FRAMES_HELD_MAX = 4096  # of a WebSocket, which wait for what follows: empty ones cost memory, too
EGRESS_MASK_SECONDS = 0.05  # a pause after which whole lines, or messages, of a streamed answer go on
EGRESS_CHUNK_BYTES = 128 * 1024  # of a body in memory, each way
EGRESS_SPOOL_SEGMENT_BYTES = 1024 * 1024  # of a file of what was not stored yet; read whole by the server
EGRESS_SPOOL_BYTES_MAX = 64 * 1024 * 1024  # of all of them: 150,000 requests; then nothing more gets out
EGRESS_SPOOL_SYNC_SECONDS = 1.0  # of the audit, lost at most when the power fails
REGISTRIES_BYTES_MAX, REGISTRIES_MAX = 64 * 1024, 100  # what package managers say of where they fetch from
EGRESS_AWAY_SECONDS = 10.0  # an errand waits for one that is being started again; clients give up after 15
EGRESS_RETRY_SECONDS, EGRESS_RETRY_SECONDS_MAX = 0.1, 1.0  # between looks for an egress that is away
CREDENTIALS_FRESH_SECONDS = 20.0  # a session's credentials are used without another look at the store
CREDENTIALS_STALE_SECONDS = 50.0  # used while the store cannot be asked: changes reach it in a minute
CREDENTIALS_WAIT_SECONDS = 5.0  # a request waits for the credentials of its session; a look takes 10 ms
CREDENTIALS_AGAIN_SECONDS = 20.0  # likewise, where what is known already is of no use: it was refused
CREDENTIALS_POLL_SECONDS = 20.0  # an egress process keeps its server waiting for a wish
CREDENTIALS_RETRY_SECONDS = 1.0  # between looks of a server whose store or egress process is away
EGRESS_HELD_BYTES_MAX = 256 * 1024  # of a body that is held to count it, where a credential may be put in
EGRESS_HEADERS_MAX = 256  # of an answer in which secrets are looked for: in each name and value
EGRESS_PUT_IN_BYTES_MAX = (
    4 * 2**20
)  # of secrets in one request: a placeholder is short, and a secret need not be
EGRESS_HOST_SECRETS_CHARS_MAX = (
    128 * 1024
)  # of a session's variables for one host: each is looked for in every answer, in many spellings
EGRESS_HOSTS_DERIVED_MAX = 8  # hosts for which what a session has was worked out, while that is used
MASKED_SECRET_BYTES_MIN = 6  # a shorter secret stands in any text: an answer is not searched for it
EGRESS_LEAVES_MAX = (
    1_000  # certificates in memory, 30 KB each: one for each session and host with a credential
)
EGRESS_TLS_SECONDS = 20.0  # of a handshake, with a host or in a sandbox
CREDENTIALS_SESSIONS_MAX = 2_000  # whose credentials are in memory, in plain: as many as are at work
CREDENTIALS_PLAIN_CHARS_MAX = 256 * 1024**2  # of all their secrets; those of one session are 48 MiB at most
CREDENTIALS_PART_BYTES = 1024 * 1024  # of what a session has, given to the egress process in one request

# -- audit ------------------------------------------------------------------------------------------
AUDIT_TAKE_SECONDS = 1.0  # how late the store has what an egress process wrote down
AUDIT_DAYS = 90  # an entry is kept, unless the operator says otherwise: a quarter of a year
AUDIT_ENTRIES_MAX = 2_000_000  # of all sessions, half a gigabyte; the oldest go first
AUDIT_PRUNE_SECONDS = 3600.0  # between looks for entries that are too old
AUDIT_PRUNE_BATCH_MAX = 1000  # forgotten in one transaction
AUDIT_PAGE_LIMIT_MAX = 1000  # entries of one page: exports are long

# -- leases ---------------------------------------------------------------------------------------
LEASE_TTL_SECONDS = 10.0
LEASE_RENEW_SECONDS = LEASE_TTL_SECONDS / 3
LEASE_TRUST_SECONDS = LEASE_TTL_SECONDS * 0.8  # a holder trusts itself for less than the store does
LEASE_CHECK_SECONDS = 0.5  # how late a lease that is no longer trusted is noticed
SWEEP_SECONDS = 1.0
SWEEP_PAUSE_SECONDS = 0.02  # between two sweeps, however much asks for one
SWEEP_DEEP_SECONDS = 10.0  # how often what no brain would find by itself is looked for, and repaired
SWEEP_BATCH_MAX = 500  # sessions looked at in one transaction of it
CLAIM_BATCH_MAX = 64  # sessions claimed at once: other brains get their share, and a failure hits few
CLAIM_RIVALS = 512  # sessions that other brains may be claiming at the same moment, and are passed over
SUSPECT_TURNS = 16  # a session that failed waits behind so many others of its key, per failure
KILL_BATCH_MAX = 200  # sessions killed in one transaction and one answer
DRAIN_SECONDS = 10.0  # SIGTERM: model requests may end for this long, then another brain asks them again
IDLE_LOOPS_MAX = 128  # folded states kept for the next wake of their session
IDLE_LOOPS_CHARS_MAX = 64 * 1024 * 1024  # of all of them together; a few conversations with pictures
SESSION_BACKOFF_SECONDS, SESSION_BACKOFF_SECONDS_MAX = 1.0, 60.0  # a session whose loop fails waits alone
SESSION_FAILURES_MAX = 5  # brains that died at a session in a row: the next one ends its turn
# A brain that dies takes all its sessions with it; before the last counts only the guilty one may be there.
SUSPECTS_AT_ONCE = {2: 64, 3: 8, 4: 1}  # sessions with so many failures (or more) at once in one brain
# What kills its brain does so when it is folded, asked about or dispatched: whoever runs for so long hides
# none of the next (a call may take hours).
SUSPECT_SECONDS = 60.0
STORE_BACK_SECONDS = 2 * SWEEP_SECONDS  # after an outage: who held sessions gives them back first
STORE_LATE_SECONDS = 2.0  # a look at the store that took longer was an outage
AWAKE_SECONDS = 2.0  # a brain that stood still for longer lost its leases by itself, not by the store
REFUSED_SESSIONS_MAX = 1024  # sessions of a brain whose appends the store refused, with how often in a row
FOLD_EVENTS_AT_ONCE = 500  # some 3 ms; then other sessions of the brain get a turn
LOOK_AGAIN_SECONDS = 2.0  # a waiting loop reads the store this often, should a hint be lost
CLEANUP_BATCH_MAX = 64  # ended sessions cleaned up per look; the next look is a second later

# -- memory ---------------------------------------------------------------------------------------
MEMORY_STORE_NAME_CHARS_MAX, MEMORY_STORE_DESCRIPTION_CHARS_MAX = 255, 1024  # API docs, memory
MEMORY_STORES_PER_SESSION_MAX = 8  # API docs, sessions
MEMORIES_PER_STORE_MAX = 2_000  # API docs, memory
MEMORY_CONTENT_BYTES_MAX = 102_400  # of UTF-8; API docs, memory
MEMORY_PATH_BYTES_MAX, MEMORY_PATH_SEGMENTS_MAX = 1_024, 20  # API docs, memory
MEMORY_FULL_PAGE_LIMIT_MAX = 20  # items of a page with contents: two megabytes; API docs, memory
MEMORY_VERSION_DAYS, MEMORY_VERSIONS_KEPT = 30, 10  # at least so long, and the last of each memory for ever
MEMORY_FORGET_BATCH_MAX = 200  # rows that one transaction of the clean-up removes; 20 MB at most
MEMORY_FORGET_SECONDS = 10.0  # how often it looks
MEMORY_EDITS_MAX = 100  # edits, or contents, of a mount in one transaction: 10 MB at most
MEMORY_CHANGES_MAX = 500  # a follower that is further behind lists anew, which is cheaper

# -- files ----------------------------------------------------------------------------------------
FILE_BYTES_MAX = 500 * 1024 * 1024  # API docs, files
FILES_BYTES_MAX = 1024**4  # of all uploads together (files_bytes_max); API docs, files
FILE_NAME_CHARS_MAX, FILE_TYPE_CHARS_MAX = 255, 255  # API docs, files; of a name, of a MIME type
FILE_SECONDS_MIN, FILE_SECONDS_MAX = 3_600, 7_776_000  # expires_in_seconds; API docs, files
FILE_METADATA_DAYS = 30  # after a file has expired; API docs, files
FILE_PAGE_LIMIT_MAX, FILE_IDS_MAX = 1000, 100  # API docs, files
UPLOADS_AT_ONCE_MAX = 64  # of one process, shared by workspaces: two megabytes each, 32 with S3; then 529
UPLOAD_SECONDS_MAX = 3_600.0  # a whole upload: 140 KB/s for the largest
UPLOAD_GIVEN_UP_SECONDS = 2 * UPLOAD_SECONDS_MAX  # then nobody writes those bytes any more: they go
MULTIPART_PARTS_MAX, MULTIPART_FIELD_BYTES_MAX = 16, 1024  # of an upload: file, and small fields
MULTIPART_HEADER_BYTES_MAX, MULTIPART_HEADERS_MAX = 4096, 8  # of one part: one line, how many lines
MULTIPART_BOUNDARY_CHARS_MAX = 70  # RFC 2046
MULTIPART_FRAME_BYTES_MAX = 64 * 1024  # of an upload besides its file
FILE_DOCUMENTS_MAX = 100  # file-sourced documents of one send; API docs, sessions
FILE_BLOCKS_BYTES_MAX = 20 * 1024 * 1024  # of one send: as base64 they must fit into a model request
FILE_BLOCKS_CACHE_CHARS_MAX = 64 * 1024 * 1024  # base64 that a brain remembers between requests
FILES_CLEAN_SECONDS, FILES_CLEAN_BATCH_MAX = 10.0, 100  # how often what is over goes, how many in one go
SESSION_RESOURCES_MAX = 500  # API docs, sessions: files of one session
RESOURCES_PER_REQUEST_MAX = 999  # API docs, sessions: of a new session
SESSION_OUTPUTS_MAX = 1_000  # files that one session has put out and not removed
RESOURCE_PAGE_LIMIT_MAX = 1000  # API docs, sessions
MOUNT_PATH_BYTES_MAX, MOUNT_PATH_PART_BYTES_MAX = 1_024, 255  # what file systems take
# -- work of self-hosted environments -------------------------------------------------------------
WORK_LEASE_SECONDS = 300  # of a worker that asks for no other, as the SDK has it (work_lease_seconds)
WORK_LEASE_SECONDS_MIN, WORK_LEASE_SECONDS_MAX = 10, 3600  # what a worker may ask for
WORK_LEASE_SETTING_MIN = 2  # of work_lease_seconds; workers beat once a second at most
WORK_CLAIM_SECONDS = 5.0  # to acknowledge a claim, then others may have it; the documented default
WORK_RECLAIM_MS_MAX = 24 * 3600 * 1000  # of reclaim_older_than_ms
WORK_BLOCK_MS_MAX = 999  # of a poll's block_ms; API docs, self-hosted
WORK_STOP_SECONDS = 120.0  # a worker learns in 30 s that it shall stop, and flushes memories for 60 s
WORK_STOPS_SECONDS = 10.0  # a worker that says so itself; the SDK's bare poller does not confirm it
WORK_RETRY_SECONDS, WORK_RETRY_SECONDS_MAX = 30.0, 600.0  # before failed work is offered anew; doubled
WORKER_SEEN_SECONDS = 30.0  # who polled since counts as polling; API docs, self-hosted
WORKER_NOTE_SECONDS = 5.0  # how often it is written down that a worker polls
WORKERS_NOTED_MAX = 10_000  # of one process, in memory
WORKER_ID_CHARS_MAX = 255
WORKER_STREAM_LOOK_SECONDS = 2.0  # a stream outlives the worker's credential that opened it for so long
ENVIRONMENT_KEYS_MAX = 100  # of one environment that are not revoked

# -- skills ---------------------------------------------------------------------------------------
SKILL_BYTES_MAX = 30 * 1024 * 1024  # of all files, unpacked: with its multipart frame it fits into a body
SKILL_FILES_MAX = 1_000  # also entries of a zip, directories included
SKILL_PATH_BYTES_MAX, SKILL_PATH_PART_BYTES_MAX = 512, 200  # below what file systems take (4096, 255)
SKILL_PATH_PARTS_MAX = 16  # directories and file name, the skill's own directory included
SKILL_MD_BYTES_MAX = 256 * 1024  # READ_BYTES_MAX: the agent reads it with one call
SKILL_FRONT_MATTER_BYTES_MAX = 16 * 1024  # names, descriptions and a few settings
SKILL_FRONT_MATTER_DEPTH_MAX = 16  # settings of settings; what is deeper is there to cost time
SKILL_NAME_CHARS_MAX, SKILL_DESCRIPTION_CHARS_MAX = 64, 1024  # API docs, skills
SKILL_DISPLAY_NAME_CHARS_MAX = 255  # API docs, skills
SKILL_REFERENCE_CHARS_MAX = 255  # of an id or a version in an agent
SKILL_PAGE_LIMIT_MAX = 1_000  # API docs, skills
SKILL_ZIP_DIRECTORY_BYTES_MAX = 1024 * 1024  # of a zip's own list of its entries, which is held in memory
# Deflate makes text 3 to 20 times smaller; beyond this an archive is nothing but a bomb.
SKILL_ZIP_RATIO_MAX, SKILL_ZIP_RATIO_BYTES = 250, 4 * 1024 * 1024
SKILL_CHUNK_BYTES = 256 * 1024  # of a file in memory at a time
SKILLS_PER_SESSION_MAX = 500  # distinct, over all agents of a session; API docs, skills
SKILL_FORGET_SECONDS = 3600  # a deleted package stays for sessions that are just being created
SKILL_FORGET_BATCH_MAX = 20  # packages that one look removes
SKILL_FORGET_LOOK_SECONDS = 60.0

# -- model requests -------------------------------------------------------------------------------
MODEL_ATTEMPTS_MAX = 6  # one request and five retries, then retries_exhausted
MODEL_BACKOFF_SECONDS, MODEL_BACKOFF_SECONDS_MAX = 1.0, 60.0
MODEL_RETRY_AFTER_SECONDS_MAX = 300.0  # a longer retry-after ends the turn instead of holding it
MODEL_SILENCE_SECONDS_MAX = 300.0  # no byte for this long: the stream is broken
MODEL_CONNECT_SECONDS = 10.0  # a provider that does not accept within this is down
MODEL_COUNT_SECONDS_MAX = 30.0  # counting tokens is quick, and a client waits for it
MODEL_DRAIN_SECONDS = 1.0  # after the terminal event: how long to wait for the end, to reuse the connection
MODEL_EVENT_BYTES_MAX = 32 * 2**20  # of one event of a stream: a reply of tools may come as one
MODEL_ERROR_BYTES_MAX = 64 * 2**10  # of a provider's error, read before its message is cut
MODEL_MESSAGE_CHARS_MAX = 500  # of a provider's error message shown to the user
MODEL_KEEPALIVE_SECONDS = 90.0  # an unused connection to the provider; tool rounds are seconds apart
MODEL_POOL_REQUESTS = 8  # requests in flight that share an HTTP pool; its bookkeeping grows with them
MODEL_THINKING_TOKENS = 8_000  # thinking budget of older models that need one
LOCAL_CONTEXT_TOKENS = 8_192  # a 1.5B model follows no more than this; a prompt is read at some 77 tokens/s
LOCAL_OUTPUT_TOKENS = 1_024
LOCAL_RESULT_CHARS_MAX = 1_500  # of one tool output, as the small model sees it
LOCAL_SYSTEM_CHARS_MAX = 1_500  # of the agent's system prompt, likewise
LOCAL_QUEUE_MAX = 16  # requests waiting for the one local model; the next is "overloaded"
LOCAL_LOAD_SECONDS_MAX = 120.0  # reading the weights from a cold disk
LOCAL_CRASHES_MAX = 3  # in a row; then the model is given up until the server restarts
REPLAY_DELTA_CHARS = 12  # what real models send at a time (median)
REPLAY_SECONDS_MAX = 20.0  # one reply of a recording, however long it took then
RECORDING_BYTES_MAX = 16 * 1024 * 1024
# A model's window, less its output, is the room of a conversation; shares of it.
CLEAR_AT = 0.6  # old tool results are cleared from here on,
CLEAR_KEEPS = 0.25  # but for the newest of them,
CLEAR_GAIN = 0.15  # once it makes so much room: what is behind a clearing is read without a cache
COMPACT_AT = 0.85  # a summary is asked for; one more result and a question still fit
COMPACT_KEEPS = 0.1  # of the newest messages, beside what the model has not seen
COMPACT_SUMMARY = 0.3  # of the summary; a longer one is cut in the middle
COMPACT_TASK = 0.1  # of the user's first message and of the latest; the middle of longer ones is cut
COMPACTIONS_MAX = 3  # in a row without a message or call of the model; then compaction_limit_reached_error
TASK_BYTES_MIN = 2_000  # of these two messages, however little room there is
CUT_BYTES_MIN = 300  # of a result or message: what is cut shorter says nothing
TOKEN_BYTES = 3  # of text in UTF-8 to a token: cautious (English has 4, code 3, Chinese 3 to 4)
TOKEN_BYTES_MAX = 8  # what a provider's count may come to; beyond it, it counted something else
JUDGE_SECONDS_MAX = 30.0  # of one judgement; then the client is asked
JUDGE_OUTPUT_TOKENS = 2_000  # one word, and the thought before it
JUDGE_TRANSCRIPT_BYTES = 60_000  # of the session so far that a judge is shown, the largest parts cut
JUDGE_CALL_BYTES_MAX = 30_000  # of a call; what cannot be shown whole is not judged
LOG_SLICE_CHARS_MAX = 30_000  # of its own log that an agent reads in one call; some 8,000 tokens
LOG_LINE_CHARS_MAX = 2_000  # of one line of it
LOG_EVENTS_AT_ONCE = 200  # of it read from the store in one question
MODEL_OUTPUT_TOKENS = 32_000  # max_tokens of a request; not configurable on this API
TOOL_ROUNDS_PER_TURN_MAX = 500  # API docs, tools; then tool_use_limit_reached_error (turn_rounds_max)
TURN_SECONDS_MAX = 24 * 3600  # a turn that works longer than this is lost in something (turn_seconds_max)
TURN_TOKENS_MAX = 100_000_000  # likewise, read and written: some hundred dollars (turn_tokens_max)
TURN_OVER_SECONDS = 0.05  # a turn is looked at so long after its time is up: once, not just before
MODEL_REQUESTS_MAX = 512  # in flight at once in one brain; more wait, keys in turn
SESSIONS_PER_BRAIN_MAX = 1000  # running at once in one brain; further wakes wait

# -- supervisor -----------------------------------------------------------------------------------
RESTART_BACKOFF_SECONDS, RESTART_BACKOFF_SECONDS_MAX = 0.5, 10.0  # doubled; the first restart is at once
RESTART_HEALTHY_SECONDS = 5.0  # a process that lived this long begins again at once, without backoff
START_DEATHS_MAX = 4  # before the first ready line: then the start has failed
SPARE_DELAY_SECONDS = 3.0  # after a server's start: its spare imports once the start itself is over
READY_SECONDS_MAX = 60.0  # a process that has not reported by then hangs: killed and started again
SERVER_DRAIN_SECONDS = 15.0  # DRAIN_SECONDS, then streams end and leases go back; then it is killed
HANDS_STOP_SECONDS = 8.0  # SIGTERM to SIGKILL: HANDS_DRAIN_SECONDS, and destroying the sandboxes
TAKEOVER_SECONDS = 5.0  # how long a start waits for a dead supervisor's server to be gone
HEALTH_REPLY_SECONDS = 1.0  # the supervisor waits for no answer longer: it has others to look after
HEALTH_REPLY_BYTES_MAX = 64 * 1024  # of such an answer; it has some hundred
CHILD_SILENT_SECONDS = 30.0  # three heartbeats missed: hands or egress are asked whether they live
DEAF_SECONDS_MAX = 10.0  # hands or egress that answer nobody for this long hang: killed and replaced
LOG_FOLLOW_SECONDS = 0.25  # how often new log lines of hands and egress are shown
OPEN_FILES_MIN = 4_096  # an event stream is an open file: `corral doctor` warns of fewer
LOG_FILE_BYTES_MAX = 16 * 1024 * 1024  # their log file begins anew at a start beyond this

# -- hands ----------------------------------------------------------------------------------------
TOOL_OUTPUT_CHARS_MAX = 100_000  # above it the output spills to a file (API docs, tools)
TOOL_PREVIEW_CHARS = 2_000  # first and last characters kept in the preview
TOOL_TIMEOUT_SECONDS = 120.0  # bash default, as the SDK's reference toolset
TOOL_TIMEOUT_SECONDS_MAX = 3600.0
TOOL_INPUT_BYTES_MAX = 16 * 1024 * 1024
CANCEL_GRACE_SECONDS = 2.0  # an interrupt has killed the command by then
SANDBOXES_MAX = 64  # live sandboxes of one hands host
SANDBOX_IDLE_SECONDS = 600.0  # then it goes; the workspace stays
SANDBOX_MEMORY_BYTES = 2 * 1024**3
SANDBOX_PROCESSES_MAX = 512
SANDBOX_FILE_BYTES_MAX = 10 * 1024**3  # one file; the hosted sandbox has a 10 GB disk
SANDBOX_OPEN_FILES_MAX = 4096
SANDBOX_TMP_BYTES = 512 * 1024**2  # /tmp is memory
SANDBOX_DISK_BYTES = 10 * 1024**3  # of all that one sandbox keeps; as the hosted one
SANDBOX_ENTRIES_MAX = 1_000_000  # files and directories of one: empty ones take room on the disk, too
SANDBOX_DISK_LOOK_SECONDS = 2.0  # between two looks at what sandboxes keep; a look takes at most a tenth
SANDBOX_CPU_PERIOD_SECONDS = 0.1  # in which a bound on processors holds; the kernel's own choice
SANDBOXES_CPU_SHARES = 4096  # of cgroup v1: all sandboxes together weigh as four processes of the machine
# What an environment may ask for: a sandbox needs the least to boot, the most guards against slips.
SANDBOX_CPUS_MIN, SANDBOX_CPUS_MOST = 0.05, 1024.0
SANDBOX_MEMORY_BYTES_MIN, SANDBOX_MEMORY_BYTES_MOST = 64 * 1024**2, 16 * 1024**4
SANDBOX_PROCESSES_MIN, SANDBOX_PROCESSES_MOST = 32, 1_000_000
SANDBOX_DISK_BYTES_MIN, SANDBOX_DISK_BYTES_MOST = 1024**2, 1024**5
# Of the machine's tasks, for a process in gVisor, whose ptrace platform has one to run it for each thread
# of its own that ever did (measured: five), and for gVisor itself. What runs inside, its own kernel bounds;
# at this bound all of the sandbox ends.
GVISOR_TASKS_PER_PROCESS, GVISOR_TASKS = 8, 200
SANDBOX_BOOT_SECONDS_MAX = 20.0  # measured 50 ms; beyond this something is broken
ENGINE_SECONDS_MAX = 60.0  # of docker or podman for one command; measured 0.1 to 1 s, beyond it it hangs
SANDBOX_ANSWER_SECONDS = 10.0  # beyond a call's own timeout: then the sandbox counts as lost
SANDBOX_STDERR_BYTES = 8 * 1024  # of a failed start, to explain it
BASH_OUTPUT_BYTES_MAX = 100 * 1024  # these to WALK_ENTRIES_MAX: as the SDK's reference toolset
READ_BYTES_MAX = 256 * 1024
READ_IMAGE_BASE64_BYTES_MAX, READ_PDF_BYTES_MAX = 5 * 1024**2, 20 * 1024**2
GREP_OUTPUT_BYTES_MAX, GREP_LINE_BYTES_MAX, GREP_CPU_SECONDS = 100 * 1024, 2000, 30.0
GLOB_RESULTS_MAX, WALK_ENTRIES_MAX = 200, 50_000
SPILL_BYTES_MAX = 64 * 1024**2  # of one tool output kept in a file
WORKSPACE_ARCHIVE_BYTES_MAX = 512 * 1024 * 1024
WORKSPACE_ARCHIVE_MEMBERS_MAX = 200_000
TREE_ENTRIES_MAX, TREE_DEPTH_MAX = 20_000, 40  # of a tree that an agent wrote; more are not looked at
TREE_PATH_BYTES_MAX = 4_096  # of a path in it; what is longer is not looked at
TREE_PATHS_BYTES_MAX = 2 * 1024 * 1024  # of all paths of a tree together; the rest is not looked at
TREE_REPLY_BYTES_MAX = (
    32 * 1024 * 1024
)  # a tree and its note on their way: paths take up to three times that
TREE_NOTE_BYTES_MAX = 8 * 1024 * 1024  # what was made of a tree: some 300 bytes for each entry
HELD_RECENT_SECONDS = 30.0  # a session at work so short ago is listed among those that may have news
MEMORY_PROBLEMS_MAX = 20  # files that one tool result names because their store did not take them
MEMORY_ATTEMPTS_MAX = 3  # to save a tree that others save at the same moment
MEMORY_SYNC_SECONDS = 20.0  # a call's result waits no longer for what it wrote to be saved
MEMORY_APPLY_BYTES_MAX = 24 * 1024 * 1024  # a batch of memories of the largest size, as base64
OUTPUTS_LOOK_SECONDS = 0.5  # how often a host's sessions are looked at for new outputs
OUTPUTS_AGAIN_SECONDS = 0.9  # between two looks at one session, however many calls it makes
OUTPUTS_BUSY_SECONDS = 2.0  # likewise, each session that is at work, for what comes before its call ends
OUTPUTS_ALIVE_SECONDS = 5.0  # likewise, each that only has a sandbox, for what its processes write
OUTPUTS_RETRY_SECONDS_MAX = 300.0  # between two looks at a session that fail: twice as long each time
OUTPUTS_NOTED_MAX = 60_000  # files of one session that a note knows: some 60 bytes each
OUTPUTS_QUIET_SECONDS = 1.0  # while a call runs, a file that was written more recently is not done yet
OUTPUTS_AT_ONCE = 4  # sessions of one host whose outputs are being read
OUTPUTS_BYTES_MAX = 10 * 1024**3  # of one session; the hosted sandbox has a disk of that size
MOUNT_BYTES_MAX = 520 * 1024 * 1024  # of what one mount brings: a file of 500 MB, and a tar around it
MOUNTS_PER_RECIPE_MAX = 2_000  # 999 files, 500 skills, 8 memory stores, and repositories
MOUNT_SECONDS_MAX = 900.0  # until a mount is there: the clone of a large repository
RESOURCES_FRESH_SECONDS = 1.0  # a file that is added while calls run is seen by one that begins later
MOUNT_ATTEMPTS_MAX, MOUNT_RETRY_SECONDS = 3, 1.0  # of one that cannot be read now
MOUNT_FAILURES_MAX = 3  # of one that the session needs; then its turn ends (API docs, environments)
MOUNT_ROUNDS_MAX = 8  # how often one call asks for what is missing: each look may find another loss
HANDS_UNADOPTED_SECONDS = 60.0  # hands and egress end themselves without a supervisor
HANDS_DRAIN_SECONDS = 3.0  # a stopping host lets running calls end by themselves for this long
HANDS_CONNECT_SECONDS = 5.0  # a unix socket that does not accept by then has no host behind it
HANDS_REPLY_SECONDS = 30.0  # every request but execute, attach and archives is answered by then
HANDS_CONNECTIONS_MAX = SESSIONS_PER_BRAIN_MAX + 200  # calls and archives a client waits for; more queue
HANDS_CONTROL_CONNECTIONS_MAX = 64  # of its other requests, which calls must not hold up
HANDS_HEARTBEAT_SECONDS = 10.0  # between bytes of an adoption: a vanished peer is noticed by then
SANDBOX_CREATE_SECONDS_MAX = 60.0  # a cold start is 43 ms (bwrap) to seconds; beyond it it hangs
SANDBOX_WAIT_SECONDS_MAX = 300.0  # for a place, when all are busy; longer than most calls run
SANDBOX_REAP_SECONDS = 2.0  # how often the sandbox reaper looks
SANDBOX_PROBE_SECONDS = 10.0  # how long the answer to "can a sandbox be made?" is believed
DISK_FREE_BYTES_MIN = 256 * 1024 * 1024  # below it no new work: results in flight must still fit
TOOL_RESULT_BYTES_MAX = 32 * 1024 * 1024  # a 20 MiB PDF in base64 is the largest result there is
JOURNAL_CALLS_MAX = 100_000  # unsettled calls; more means that nobody settles, so refuse new ones
JOURNAL_RESULT_SECONDS = 24 * 3600  # then a result that its idle session did not settle is settled for it
JOURNAL_SETTLED_SECONDS = 3600  # how long a settled call stays known; TCP gives a request up in 15 minutes
JOURNAL_BATCH_MAX = 512  # operations that share one fsync

# -- programs alone in throw-away sandboxes ---------------------------------------------------------
CONFINED_NICENESS = 10  # turns that run go first
CONFINED_WATCH_SECONDS = 1.0  # between looks at how much one has written; a disk takes 1 GB in it
TUNNEL_HEAD_SECONDS = 10.0  # from a connection to what it asks for
TUNNEL_HEAD_BYTES = 8192  # of what a program sends to be let through; libcurl sends 200
TUNNEL_CONNECTIONS_MAX = 16  # of one program; git uses one or two

# -- repositories -----------------------------------------------------------------------------------
REPOSITORY_URL_CHARS_MAX, REPOSITORY_BRANCH_CHARS_MAX = 1024, 255
REPOSITORY_MOUNT_PATH_CHARS_MAX = 512  # its files have room below in the 4,096 of a path
REPOSITORY_SECONDS_MAX = 300.0  # a clone or fetch that takes longer holds a tool call up for too long
REPOSITORY_BYTES_MAX = (
    WORKSPACE_ARCHIVE_BYTES_MAX  # that one clone or fetch may receive: more could not be sent
)
REPOSITORY_SENT_BYTES_MAX = 64 * 1024**2  # that one may send: what it has, so that only news come back
# Of the tar of a working tree and its .git. A few bytes of a pack can stand for any number of either.
REPOSITORY_TREE_BYTES_MAX, REPOSITORY_TREE_FILES_MAX = (
    WORKSPACE_ARCHIVE_BYTES_MAX,
    WORKSPACE_ARCHIVE_MEMBERS_MAX,
)
# Directories within each other: what walks a tree may recurse, and a path has at most 4,096 bytes.
REPOSITORY_REF_DEPTH_MAX, REPOSITORY_TREE_DEPTH_MAX = 50, 200  # names of branches and tags; working trees
REPOSITORY_REFS_MAX = 100_000  # branches and tags; each may be a file of our copy
REPOSITORY_MIRROR_ENTRIES_MAX = 250_000  # files and directories of a copy: those, and a few more
REPOSITORY_MEMORY_BYTES = 3 * 1024**3  # address space of one git: a pack can be made to unpack to any size
REPOSITORIES_PER_SESSION_MAX = 20  # each is a clone before the first turn, and a program or two
REPOSITORY_CLONES_AT_ONCE = 4  # per node, shared by workspaces: each may keep a core and a disk busy
REPOSITORY_STALL_SECONDS, REPOSITORY_STALL_BYTES = 60, 1000  # slower per second for so long: given up
REPOSITORY_STDERR_BYTES = 4096  # of git's last words, for the log
REPOSITORY_CACHE_BYTES_MAX = 10 * 1024**3  # of all copies of one node; the longest unused go first
REPOSITORY_CACHE_COUNT_MAX = 500
REPOSITORY_CACHE_SECONDS = 14 * 24 * 3600  # a copy that nobody used for so long goes
REPOSITORY_LOCK_SECONDS = 0.05  # between looks whether another process is done with a copy
REPOSITORIES_RESOLVED_MAX = 10_000  # sessions of a brain whose checked-out commit it remembers
REPOSITORY_RESOLVED_SECONDS = 60.0  # for so long: what a session start needs more than once is one fetch
REPOSITORY_SKILLS_MAX = 100  # of one repository; a prompt lists them
REPOSITORY_SKILLS_WAIT_SECONDS = 10.0  # a first request waits no longer to be told of them; a later one is
REPOSITORY_LOOKS_MAX = 1_000  # sessions of a brain for which they are looked for, or were and nobody asked
REPOSITORY_FRONT_MATTER_BYTES_MAX = 4096  # of one SKILL.md, which anybody may have written
REPOSITORY_SKILL_BYTES_MAX = 64 * 1024  # of one SKILL.md; a longer one is passed over

# -- web tools
WEB_DOMAINS_MAX, WEB_DOMAIN_CHARS_MAX = 64, 255  # of one list, one entry; source: API docs, tools
WEB_URL_SOURCE_TOOLS_MAX = 128  # of one list; source: API docs, tools
WEB_URL_CHARS_MAX = 2048  # the longest that servers commonly take
WEB_QUERY_CHARS_MAX = 1000  # of one search; engines cut off far earlier
WEB_LOCATION_CHARS_MAX = 255  # of a city, region or time zone
WEB_MISSES_KEPT_MAX = 2_000  # URLs not found in a log that a brain remembers; 2 KiB each at most
WEB_REDIRECTS_MAX = 5  # of one fetch; browsers follow 20, honest pages need one or two
WEB_FETCH_SECONDS = 30.0  # a fetch from asking to parsed; a page that takes longer holds a turn up
WEB_CONNECT_SECONDS = 10.0  # a host that does not accept within this is down
WEB_STALL_SECONDS = 15.0  # without a byte of an answer: given up
WEB_WIRE_BYTES_MAX = 12 * 1024**2  # of one fetch as it comes, TLS, redirects and all
WEB_BODY_BYTES_MAX = 10 * 1024**2  # of one page, unpacked; the largest PDFs worth reading
WEB_SENT_BYTES_MAX = 64 * 1024  # of one fetch: some requests and handshakes
WEB_MEMORY_BYTES = 768 * 1024**2  # address space of one fetch: a small page can parse to any size
WEB_HTML_CHARS_MAX = 2 * 1024**2  # of HTML that is read: a core does about 200,000 in a second
WEB_HTML_DEPTH_MAX = 256  # of elements within elements; what is deeper is text of the last
WEB_TEXT_CHARS_MAX = 1_000_000  # of one page's text; above TOOL_OUTPUT_CHARS_MAX it is in a file
WEB_PDF_PAGES_MAX = 500  # read of one document
WEB_CALLS_AT_ONCE = 12  # per host, shared by sessions: each may take a core for seconds
WEB_ANSWER_BYTES_MAX = 7 * 1024**2  # of what a fetch hands back: the text, escaped
WEB_SEARCH_SECONDS = 20.0  # a search engine of engines waits for the slowest that it asks
WEB_SEARCH_BYTES_MAX = 4 * 1024**2  # of its answer
WEB_SEARCH_RESULTS_MAX = 10  # shown of one search; the model asks again for more
WEB_SEARCH_LOOKED_AT_MAX = 200  # results of one answer, to find ten that the rules allow
WEB_SNIPPET_CHARS_MAX = 2000  # of what a search says of one page

# -- MCP ------------------------------------------------------------------------------------------
MCP_CONNECT_SECONDS = 10.0  # a server that does not accept within this is down
MCP_ADDRESS_SECONDS = 60.0  # for which addresses that were judged are dialled without asking again
MCP_KEEP_SECONDS = 4.0  # an unused connection to a server; common servers close theirs after five
MCP_REQUEST_BYTES_MAX = (
    16 * 1024**2
)  # of one request to a server; it is held to be sent again with a new token
TOKEN_EARLY_SECONDS = 300.0  # before it expires an access token is refreshed, or a fifth of its life before
TOKEN_CLAIM_SECONDS = 60.0  # for which a credential is one node's to refresh; an exchange takes a second
TOKEN_EXCHANGE_SECONDS = 30.0  # until a token endpoint has answered
TOKEN_BUSY_SECONDS = 0.25  # between looks whether another node has refreshed it
TOKEN_LINK_SECONDS = 10.0  # until this node's server has answered; it asks the database
TOKEN_KEEPS_MAX = 8  # tries to keep new tokens: what changes meanwhile is somebody's hand
TOKEN_POLL_SECONDS = 20.0  # an egress process keeps its server waiting for something to ask
TOKEN_AGAIN_SECONDS = 30.0  # a token that is refused so soon after it was made is not made again
TOKEN_RETRY_SECONDS, TOKEN_RETRY_SECONDS_MAX = 5.0, 300.0  # between refreshes that fail; doubled
TOKEN_ANSWER_BYTES_MAX = 64 * 1024  # of a token endpoint; the longest JWTs have a few KB
VALIDATION_STEP_SECONDS = 10.0  # of each question to an MCP server; a person waits
VALIDATION_SECONDS = 90.0  # of all of them: five questions twice, and a token endpoint
VALIDATION_ANSWER_SECONDS = 0.25  # between looks whether another node has answered
VALIDATION_BODY_CHARS_MAX = 2_000  # shown of what a server answers
VALIDATION_BODY_BYTES_MAX = 128 * 1024  # read of it: longer than a secret in any spelling
TOKENS_KNOWN_MAX = 4_000  # credentials whose new tokens are in memory: two for each session at work
MCP_LIST_SECONDS = 20.0  # to connect and list the tools: a turn waits no longer for a server
MCP_PAGES_MAX = 64  # of one listing; a server that goes on for ever is cut off
MCP_TOOLS_MAX = 512  # of one server that a model is shown; the tokens of more would be most of a window
MCP_TOOL_NAME_CHARS_MAX = 256  # twice what a config may name
MCP_DESCRIPTION_CHARS_MAX = 8_000  # of one tool; honest ones have a few hundred
MCP_SCHEMA_BYTES_MAX = 64 * 1024  # of one tool, its references written out
MCP_LISTING_BYTES_MAX = 1024**2  # of all tools of one server; a listing that changed is logged
MCP_ANSWER_BYTES_MAX = 32 * 1024**2  # of one HTTP answer; an image of the largest size is 7 MB in base64
MCP_EVENT_BYTES_MAX = 24 * 1024**2  # of one message in a stream of them
MCP_CALL_SILENT_SECONDS = 120.0  # without a result or progress; as a command has by default
MCP_CALL_SECONDS_MAX = 3600.0  # of one call, whatever progress it reports
MCP_IDLE_SECONDS = 300.0  # then a connection is closed; the next call makes another
MCP_CLOSE_SECONDS = 2.0  # to say goodbye to a server; then the connection is cut
MCP_CONNECTIONS_MAX = 512  # of one host; the longest idle one goes first
MCP_BLOCKS_MAX = 100  # of one result
MCP_REASON_CHARS_MAX = 500  # of what a server says of its error, to a user

# -- packages ---------------------------------------------------------------------------------------
PACKAGES_SECONDS_MAX = 600.0  # of one installation: a session waits for it; large ones compile
PACKAGES_RETRY_SECONDS = 3.0  # from a failed installation to the next one of the same packages
PACKAGES_BUILDS_AT_ONCE = 4  # per node, shared by workspaces: each may keep all cores busy
PACKAGES_RECEIVED_BYTES_MAX = 4 * 1024**3  # that one may download
PACKAGES_SENT_BYTES_MAX = 256 * 1024**2  # that one may send: questions to registries
PACKAGES_STALL_SECONDS = 60.0  # for so long a registry may leave a question unanswered
PACKAGES_CONNECTIONS_MAX = 64  # of one at a time: package managers ask side by side
PACKAGES_ANSWER_BYTES_MAX = 64 * 1024  # of what the program that installs says at its end
PACKAGES_SAID_BYTES = 4096  # of a package manager's last words, for the log
PACKAGES_SAID_CHARS = 500  # of them, for the session's user
PACKAGES_CONFIG_BYTES_MAX = 256 * 1024  # of one file that configures a package manager
# Of a layer, unpacked. A session cannot have more than the hosted disk of 10 GB; this is sent to hosts.
LAYER_BYTES_MAX, LAYER_ENTRIES_MAX = 4 * 1024**3, 300_000
LAYER_FRESH_SECONDS = 7 * 24 * 3600  # then the next session installs anew: "unpinned" means newest
LAYER_LOOK_SECONDS = 3600.0  # how often layers that are not fresh are removed from the blobs
LAYERS_KEPT_BYTES_MAX, LAYERS_KEPT_MAX = 20 * 1024**3, 100  # on a host; the longest unused go first
LAYERS_STORED_BYTES_MAX = 100 * 1024**3  # in the blobs, packed; the oldest go first
LAYERS_STORED_MAX = 1_000  # as many; each look and each new one lists them
LAYERS_MADE_PER_DAY_MAX = 50  # for one workspace: enough to try things out, and few of all that are stored
LAYERS_KNOWN_MAX = 1_000  # whose packages a brain remembers, from naming a layer to making it

# -- cluster --------------------------------------------------------------------------------------
NODE_BEAT_SECONDS = 1.0  # how often a node says that it lives
NODE_LOST_SECONDS = 5.0  # silent for longer: nothing new is placed there, and its wakes go to others
NODE_LIST_SECONDS = 3.0  # a list older than this: it may be we who are cut off, so nobody is given up
NODE_FORGET_SECONDS = 600.0  # then it is no longer listed
BACKLOG_COUNT_MAX = 100_000  # inbox entries counted for the status; more is simply very many
HOST_LOOK_SECONDS = 1.0  # how often a waiting call looks whether its host is still listed
MOVE_SECONDS_MAX = 5.0  # from giving a host up to the move being written; later it may be back: look again
MOVES_REFUSED_MAX = 3  # in one search for a session's place; then whoever asked may ask again
HOST_UNREACHABLE_SECONDS = 3.0  # a host whose certificate does not fit is not tried again for so long
HOST_WARNING_SECONDS = 600.0  # between warnings about one host for one reason
HOST_SILENT_SECONDS = 15  # a connection to a machine that vanished is given up on (TCP keep-alive)
HOST_CLIENTS_MAX = 256  # hosts that one process talks to; the longest unused is let go
PLACEMENTS_CACHED_MAX = 10_000  # sessions whose host a brain remembers; the database knows all
CHECKPOINT_LOOK_SECONDS = 1.0  # how often a host's workspaces are looked at
CHECKPOINT_IDLE_SECONDS = 3.0  # between tool rounds there are seconds: not each of them is an end
CHECKPOINT_RETRY_SECONDS = 60.0  # a workspace that could not be copied, too large for one
CHECKPOINTS_AT_ONCE = 2  # per host: packing takes a core
CHECKPOINTS_LEFT_MAX = 100  # blobs of killed servers that one new checkpoint of their session removes
HANDS_DRAIN_CHECKPOINT_SECONDS = 4.0  # a stopping node copies idle workspaces for this long
CHECKPOINT_BYTES_MAX = 4 * 1024**3  # of a packed workspace; with more it lives on its host alone
SANDBOX_SWEEP_SECONDS = 10.0  # how often a host's sandboxes are compared with the store
SANDBOX_SWEEP_BATCH_MAX = 500  # sessions in one question to the store
CERTIFICATE_WARNING_DAYS = 30  # `corral doctor` says that a certificate ends soon
CLOCK_SKEW_SECONDS = 1.0  # between us and the database, likewise; nothing of ours depends on it
CERTIFICATE_DAYS, AUTHORITY_DAYS = 365, 3650  # of `corral certs`: of a node, and of what signs it
BLOB_CHUNK_BYTES = 1024 * 1024  # of a blob in memory at a time, each way
BLOB_KEY_CHARS_MAX, BLOB_KEY_PART_CHARS_MAX = 512, 200  # below what S3 (1024) and file names (255) allow
BLOB_PART_BYTES = 8 * 1024 * 1024  # one request to S3, each way; its least is 5 MiB, its most 10,000 parts
BLOB_PARTS_AT_ONCE = 2  # parts of one blob on their way: one is sent while the next is read
BLOB_CONNECT_SECONDS = 5.0  # a service that does not accept by then is down
BLOB_SILENCE_SECONDS = 30.0  # no byte of an answer for this long: the request has failed
BLOB_REQUEST_SECONDS = 120.0  # one part at 70 KB/s; whoever is slower cannot be worked with
BLOB_RETRIES_MAX = 3  # of one request, within BLOB_RETRY_SECONDS: a restarted gateway is back by then
BLOB_RETRY_SECONDS = 20.0
BLOB_PROBE_SECONDS = 30.0  # what /readyz says of the blob store is at most this old: three requests
BLOB_BACKOFF_SECONDS, BLOB_BACKOFF_SECONDS_MAX = 0.2, 5.0  # with jitter

# -- backup ---------------------------------------------------------------------------------------
BACKUP_PAGE_ROWS = 200  # read at a time; rows are 2 KB, and now and then a picture
ARCHIVE_MEMBER_BYTES = 4 * 1024 * 1024  # after which the next rows, or bytes of a blob, are a new member
ARCHIVE_MEMBER_BYTES_MAX = 256 * 1024 * 1024  # what one row can come to; a larger member is no archive's
BACKUP_REPLACED_MAX = 5  # newer checkpoints tried when one is replaced while its turn comes
BACKUP_NAMED_MAX = 20  # missing blobs that a report names; it counts the rest
RESTORE_EPOCH_STEP = 1_000_000  # above all epochs that hands saw after the backup; a claim takes one

# -- store ----------------------------------------------------------------------------------------
STORE_BUSY_SECONDS = 10.0  # how long a writer waits for a foreign lock (a backup, sqlite3 by hand)
STORE_READERS = 4  # threads that read; SQLite reads release the GIL only inside a step
STORE_WAL_PAGES = 4000  # 16 MB of WAL between checkpoints: fewer stalls, still quick to recover
STORE_OUTAGE_SECONDS = 10.0  # a database that restarts is back by then; longer, and callers are told
STORE_RETRY_SECONDS, STORE_RETRY_SECONDS_MAX = 0.02, 0.5  # between attempts, doubled, with jitter
STORE_CONFLICTS_MAX = 8  # deadlocks in a row of one transaction; our own locks are ordered, so one is rare
POSTGRES_VERSION_MIN = 15  # the oldest that is tested and still maintained for years
POSTGRES_WRITERS = (
    3  # one for appends, two for all else: measured, more only take the processor from each other
)
POSTGRES_CONNECT_SECONDS = 5  # a server that does not answer by then is away
POSTGRES_IDLE_SECONDS = 3.0  # our transactions never pause: a process stopped in one loses its row locks
POSTGRES_LOCK_SECONDS = 10.0  # longer than POSTGRES_IDLE_SECONDS: a stopped holder is gone by then
POSTGRES_STATEMENT_SECONDS = 30.0  # the largest, a long session's log, takes a second
POSTGRES_UNACKNOWLEDGED_SECONDS = 10.0  # bytes nobody acknowledged: the network is cut, not slow
POSTGRES_KEEPALIVE_SECONDS, POSTGRES_KEEPALIVE_COUNT = 3, 3  # so an idle connection is found dead as soon
WRITERS_FORGET_SECONDS = 24 * 3600  # rows of writers whose processes ended; each is 40 bytes
# While some transaction of the server is old (a backup), every version of a row stays and is walked past.
WRITER_ROW_VERSIONS_MAX = 1000
WRITE_BATCH_MAX = 512  # jobs that share one commit; more would only delay the first of them
WRITE_HELD_UP_SECONDS = 0.1  # a commit that takes longer waits for somebody: others go on without it
WRITE_SHARE_MIN = 8  # jobs; fewer rather share a commit than be spread over the writers
WRITE_STATEMENT_BYTES_MAX = (
    32 * 1024 * 1024
)  # bodies that travel as one; PostgreSQL takes no more than 1 GB
WRITES_QUEUED_MAX = 10_000  # writes waiting for the disk; then the store says that it is overloaded
TOMBSTONE_SECONDS = 24 * 3600  # how long a deleted session is remembered as deleted
HANDS_AWAY_SECONDS_MAX = 30.0  # a host that stays away longer makes its calls' outcome unknown
HANDS_PATIENCE_SECONDS = 2.0  # where the whole loop waits for a host: a restart takes under one
HANDS_RETRY_SECONDS = 0.1  # between looks for a host that is away; its supervisor restarts it
HANDS_RETRY_SECONDS_MAX = 1.0  # once it has been away for HANDS_PATIENCE_SECONDS

# -- the server process -------------------------------------------------------------------------------
GC_ALLOCATIONS = 50_000  # between two looks of Python's garbage collector; its default is 700
READINESS_SECONDS = 5.0  # between readiness checks; what /readyz says is at most this old
READINESS_RETRY_SECONDS = 0.2  # between them while one fails: a start takes about a second
READY_PATIENCE_SECONDS = 5.0  # how long the ready line waits for them; what fails then may need a person
READINESS_TIMEOUT_SECONDS = 10.0  # a check that takes longer has failed
SWEEP_STALE_SECONDS = 10.0  # a brain that has not swept for this long is not claiming
METRICS_FRESH_SECONDS = 1.0  # /metrics is open to all: what costs a query is asked at most this often
METRICS_READ_SECONDS = 2.0  # a scrape waits no longer for what costs a query
HTTP_KEEPALIVE_SECONDS = (
    75  # an unused connection: longer than clients (5 s) and balancers (60 s) reuse one
)
HTTP_HEAD_SECONDS = 20.0  # for the head of a request, and before the first one; clients send it at once
HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX = 64 * 1024, 256  # of a head; SDKs send a kilobyte in 20 lines
HTTP_READ_BYTES = 256 * 1024  # at once, of a request; one buffer for all connections
HTTP_LINGER_SECONDS = 20.0  # a body is read on after its answer for so long, and an end waits to be taken
HTTP_STALL_SECONDS = 300.0  # a client that takes nothing of its answer; busy ones pause between events
STREAMS_END_SECONDS = 3  # open connections at shutdown

# -- command line ---------------------------------------------------------------------------------
CLI_CONNECT_SECONDS = 2.0  # a server on this machine or network accepts by then
CLI_REPLY_SECONDS = 60.0  # longer than an event stream is ever silent (SSE_KEEPALIVE_SECONDS)
CLI_OUTPUT_LINES_MAX, CLI_OUTPUT_LINE_CHARS_MAX = 30, 400  # of one tool's output on the screen
CLI_RECONNECT_SECONDS, CLI_RECONNECTS_MAX = 1.0, 30  # a replaced server is back by then
FSYNC_SLOW_SECONDS = 0.02  # the doctor warns: four of these on the path of a turn would be felt
