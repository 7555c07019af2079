package outcome

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// What to do about a mover that does not do what was asked.
const (
	wrongServer = "Most often the token was made with another HIKAE_STATE_DIR than the mover runs with: on its machine, " +
		"`hikae mover token` says which state folder it uses. If the mover was set up anew, enrol this machine again with a new " +
		"token. If neither, find out who answers at that address."
	refused = "The causes may be: this machine is not enrolled there; it was revoked; its token was used already or has expired; " +
		"the clocks of the two machines differ by more than three days (the mover's log says which). A new token: `hikae mover token` on the mover's machine."
	appendOnly = "A machine with the role append adds points of its own VMs and reads nothing back. Enrol once more with a token " +
		"of the role full: on the mover's machine, hikae mover token --repo REPO NAME --role full."
)

// forbidden is what a mover answered that this machine may not do; empty where it is another error.
func forbidden(err error) string {
	if e, ok := errors.AsType[*mover.Error](err); ok && e.Code == wire.CodeForbidden {
		return e.Text
	}
	if e, ok := errors.AsType[*wire.Refuse](err); ok && e.Code == wire.CodeForbidden {
		return e.Text
	}
	return ""
}

// wasRevoked reports that this machine was let in, and then was no more.
func wasRevoked(err error) bool {
	return slices.Contains([]string{"this peer was revoked", "this peer is not known here any more"}, forbidden(err))
}

// notForRole reports that a call is not for the role that this machine has.
func notForRole(err error) bool {
	return strings.HasSuffix(forbidden(err), "is not for this peer's role")
}

// message is an error in words. What the movers say to each other of keys and roles is for logs, and so are the stations of a
// call to a server: people get it in their own words, after what the command was about to do.
func message(err error) string {
	plain := ""
	switch {
	case errors.Is(err, trust.ErrWrongServer):
		plain = "the mover there has another key than the one that this machine was told of"
	case errors.Is(err, trust.ErrRefused):
		plain = "the mover refused this machine's key"
	case wasRevoked(err):
		plain = "this machine was revoked there"
	case notForRole(err):
		plain = "this machine has the role append there, and may not do that"
	default:
		plain = cmp.Or(vsphereMessage(err), hypervMessage(err))
	}
	if plain == "" {
		return err.Error()
	}
	if own, ok := errors.AsType[*Error](err); ok && own.Text != "" {
		return own.Text + ": " + plain
	}
	return plain
}
