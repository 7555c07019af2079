// Package service is the installer service: what stands in a guest for good, at the one port that persistent processing
// needs. Reach for it to build the program that runs there; whoever talks to it uses package guest/install.
//
// # What it does
//
// It lets in whom it knows, installs signed packages, and starts the component that they hold for each connection that
// asks for it. The component itself opens no port and has no key: it speaks the frames of guest/agent/wire on its stdin
// and stdout, in a process of its own that ends with the connection.
//
//	                 ┌────────────────────── guest ──────────────────────┐
//	controller ──────┤ TCP 7421, TLS 1.3, both sides by pin              │
//	                 │ installer service ── hikae-installer/1: itself    │
//	                 │    │                 hikae-enrol/1: once          │
//	                 │    └ starts ── hikae-agent/1: component, by pipes │
//	                 └───────────────────────────────────────────────────┘
//
// One port, next to the movers' 7420 and none of those that other backup products use in guests, so that they can stand
// beside each other. What is asked for is said in the handshake (ALPN). Whoever is not known gets an alert of TLS and not
// a byte else.
//
// # Trust
//
// A [Kit] lays down three things: the keys of the controllers that are let in, the keys that packages must be signed by,
// and a temporary key that the service shows to the controller until its own key was seen there. The temporary key lets
// nobody in: it is only by what the controller knows that it talks to a guest of its own. It ends after its time (30 days
// unless it was made shorter), and as soon as a controller has come by the service's own key, which is made in the guest
// and never leaves it. Certificates are made in memory from these keys, and are good for a week.
//
// # What lies where
//
//	installer/     the service's own program
//	trust/         its key, the book of those it lets in, the temporary key
//	settings.json  the port, the signers' keys
//	components/    one folder for each installed version; state.json says which counts
//	incoming/      packages that are not whole yet: nothing in it can be run
//	sessions/      one folder for each connection's component
//
// A package becomes the component in this order: its header is verified, before a byte of the program is taken; the
// program is written where nothing runs, hashed on the way in and again from the disk; it moves to its own folder; it is
// started and must answer; state.json names it, by a rename; the old one goes. A kill or a full disk at any point leaves
// the old one or the new one, whole, and the next start removes the rest.
package service
