// Package remote lets a guest interaction proxy bring components into guests: the service that runs on the proxy, and its
// client on the backup server. Reach for it where guests are in a network that the backup server does not reach, or to
// spread the work.
//
// # Picture
//
//	backup server                     proxy                             guest
//	Client ──TLS 1.3, "hikae-guest/1"──▶ Server ──SSH, SMB, …──▶ component
//	   │        one connection a task      │   guest.Deploy             │
//	   └── guest.Component ═══ frames of guest/agent/wire ═════════════┘
//
// The service stands behind a mover's port: same key, same book of peers, chosen by ALPN ([ALPN]). A peer of the role
// guest may use it, and nothing else of that mover; full peers may, too. Whoever may use it can have the proxy connect to
// any address with credentials of theirs.
//
// What comes out of a deployment is a [guest.Deployed] like that of [guest.Deploy]: the component's frames are carried
// through the proxy, and whoever speaks to the component does not see a difference.
//
// # A task
//
// One guest's work is a task. It outlives the connections that carry it: a connection that breaks is made anew, 10 times
// at most (R191), and goes on where it was, to the byte. A request is carried out once, however often it is sent. What is
// under way waits for the link; so the component's lease is longer than directly.
//
// A persistent component is reached by its one port: [Client.DialGuest] connects there from the proxy, and what is said on
// it is between the backup server and the component alone, TLS from end to end.
//
// A task lives by its lease. When the backup server was not heard of for that long, the proxy removes what was deployed.
// Its journal knows every deployment before it happens; what a killed proxy left is swept when its guest is next visited,
// or by [Client.Sweep]: credentials come with each task, are kept in memory while it lasts, and are never written down.
//
// # Frames
//
//	0  4  length of the payload
//	4  1  kind
//	5  3  zero
//	8  8  number: of a request, of a byte in the stream, or zero
//	16    payload
//
// All numbers are big-endian. Payloads are JSON objects with exactly the fields of the structs here, or bytes of the
// component's stream.
//
//	kind       from    number    payload
//	Attach     client  0         which task; first on each connection, once
//	Attached   proxy   0         where it stands; the first answer
//	Refuse     proxy   0         why not; the last word
//	Request    client  its own   one of the verbs: status, probe, deploy, dial, remove, sweep. One is open at most
//	Answer     proxy   request   ends a request
//	Failure    proxy   request   ends a request
//	Data       both    offset    bytes of the stream, from that offset on
//	Ack        both    offset    bytes before it were read; at most 1 MiB beyond it is sent
//	End        both    offset    the stream ends there; the payload says why
//	Ping       client  0         is anybody there?
//	Pong       proxy   0         yes
//	Leave      client  0         the task is over
//
// A side that was not heard of for 30 s is gone.
//
// # Links
//
//	backup server – proxy   10 reconnects (R191)   back-off 1 s … 30 s   then [TaskError], Link ToProxy
//	proxy – guest            1 reconnect (R190)     back-off 1 s          then [TaskError], Link ToGuest
//
// A proxy that cannot be reached to begin with is a TaskError at once: the backup server takes over (R169, R170).
package remote
