package remote

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
)

// verb is what a request asks for.
type verb string

// The verbs. There is no verb that runs anything, reads a file, or writes one.
const (
	verbStatus verb = "status" // how the proxy is
	verbProbe  verb = "probe"  // which ways into a guest are open
	verbDeploy verb = "deploy" // a component, over the first way that takes it; its stream begins
	verbDial   verb = "dial"   // the port of a persistent component; the stream begins
	verbRemove verb = "remove" // the component, and prove it
	verbSweep  verb = "sweep"  // what a dead session left in a guest
)

type attachArgs struct {
	Version int    `json:"version"`
	Task    string `json:"task"`
	// Again says that the task was begun: where it is not known any more, it is lost.
	Again       bool   `json:"again"`
	LeaseMillis int64  `json:"leaseMillis"`
	Received    uint64 `json:"received"` // bytes of the stream that have come
}

type attachedAnswer struct {
	Version  int    `json:"version"`
	Product  string `json:"product"`
	Received uint64 `json:"received"`
}

type request struct {
	Verb verb            `json:"verb"`
	Args json.RawMessage `json:"args"`
}

// wayArgs is one way into a guest.
type wayArgs struct {
	Kind       guest.Kind      `json:"kind"`
	Settings   json.RawMessage `json:"settings"`
	Credential secret          `json:"credential"`
}

// secret is a credential as it is handed over: the one place where it is written out, and over TLS only.
type secret struct {
	User           string   `json:"user"`
	Password       string   `json:"password"`
	PrivateKey     []byte   `json:"privateKey"`
	Passphrase     string   `json:"passphrase"`
	Agent          bool     `json:"agent"`
	KerberosOnly   bool     `json:"kerberosOnly"`
	Realm          string   `json:"realm"`
	KDCs           []string `json:"kdcs"`
	Config         string   `json:"config"`
	ManagedAccount bool     `json:"managedAccount"`
}

// Format prints the user's name, whatever the verb.
func (s secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.User) }

func secretOf(c guest.Credential) secret {
	return secret{c.User, c.Password, c.PrivateKey, c.Passphrase, c.Agent, c.KerberosOnly, c.Realm, c.KDCs, c.Config, c.ManagedAccount}
}

func (s secret) credential() guest.Credential {
	return guest.Credential{User: s.User, Password: s.Password, PrivateKey: s.PrivateKey, Passphrase: s.Passphrase, Agent: s.Agent,
		KerberosOnly: s.KerberosOnly, Realm: s.Realm, KDCs: s.KDCs, Config: s.Config, ManagedAccount: s.ManagedAccount}
}

type statusArgs struct{}

type probeArgs struct {
	Guest       string    `json:"guest"`
	Ways        []wayArgs `json:"ways"`
	LimitMillis int64     `json:"limitMillis"` // of each probe. Zero: the ways' own
}

type probeAnswer struct {
	Findings []guest.Finding `json:"findings"`
}

type deployArgs struct {
	Guest       string    `json:"guest"`
	Session     string    `json:"session"`
	Ways        []wayArgs `json:"ways"` // in the order in which they are tried
	LimitMillis int64     `json:"limitMillis"`
	Reconnects  int       `json:"reconnects"` // to the guest, that may be tried: 0 or 1
}

type deployAnswer struct {
	Kind    guest.Kind   `json:"kind"`
	System  guest.System `json:"system"`
	Path    string       `json:"path"`
	Refused []string     `json:"refused"` // ways that did not take it, and why
	// Reconnects is how many were tried.
	Reconnects int `json:"reconnects"`
}

type dialArgs struct {
	Guest       string `json:"guest"`
	Address     string `json:"address"` // HOST:PORT
	LimitMillis int64  `json:"limitMillis"`
}

type dialAnswer struct{}

type removeArgs struct {
	LimitMillis int64 `json:"limitMillis"`
}

type removeAnswer struct{}

type sweepArgs struct {
	Guest       string    `json:"guest"`
	Ways        []wayArgs `json:"ways"`
	LimitMillis int64     `json:"limitMillis"`
}

type sweepAnswer struct {
	Undone int `json:"undone"`
	Left   int `json:"left"` // for other ways than those that were named
}

// Bounds of what a request says.
const (
	maxWays      = 8
	maxName      = 255
	maxSettings  = 64 << 10
	maxText      = 256 << 10
	maxRefused   = 8
	leastLease   = 10 * time.Second
	mostLease    = time.Hour
	defaultLease = 5 * time.Minute
	mostLimit    = time.Hour
)

var goodTask = regexp.MustCompile(`^[a-z2-7]{26}$`)

func (a *attachArgs) check() error {
	switch {
	case !goodTask.MatchString(a.Task):
		return fmt.Errorf("%w: %.40q is no task", ErrMalformed, a.Task)
	case a.LeaseMillis < leastLease.Milliseconds() || a.LeaseMillis > mostLease.Milliseconds():
		return fmt.Errorf("%w: a lease of %d ms", ErrMalformed, a.LeaseMillis)
	}
	return nil
}

// invalid says what is wrong with a request's arguments.
func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, fs.ErrInvalid)...)
}

func checkGuest(name string) error {
	if name == "" || len(name) > maxName || name != guest.Printable(name, maxName) {
		return invalid("%.80q is no name of a guest", name)
	}
	return nil
}

// limitOf is how long a request may take.
func limitOf(millis int64, otherwise time.Duration) (time.Duration, error) {
	if millis < 0 || millis > mostLimit.Milliseconds() {
		return 0, invalid("a limit of %d ms", millis)
	}
	if millis == 0 {
		return otherwise, nil
	}
	return time.Duration(millis) * time.Millisecond, nil
}

func checkWays(ways []wayArgs) error {
	if len(ways) == 0 || len(ways) > maxWays {
		return invalid("%d ways, from 1 to %d", len(ways), maxWays)
	}
	for i := range ways {
		w := &ways[i]
		c := &w.Credential
		long := max(len(c.User), len(c.Password), len(c.Passphrase), len(c.Realm), len(strings.Join(c.KDCs, ",")))
		switch {
		case len(w.Settings) > maxSettings:
			return invalid("settings of %d bytes for %.20q, at most %d", len(w.Settings), w.Kind, maxSettings)
		case long > maxSmall || len(c.PrivateKey)+len(c.Config) > maxText:
			return invalid("a credential for %.20q that is too long", w.Kind)
		case c.Agent: // it would be that of whoever started the proxy
			return invalid("%.20q: keys of an SSH agent stay with their agent: a proxy has none for others", w.Kind)
		case slices.ContainsFunc(ways[:i], func(x wayArgs) bool { return x.Kind == w.Kind }):
			return invalid("%.20q stands among the ways twice", w.Kind)
		}
	}
	return nil
}

// decode is wire.Decode: strict, one value, no unknown field.
func decode(payload []byte, into any) error {
	if err := wire.Decode(payload, into); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err == nil && len(b) > maxMessage {
		err = invalid("a message of %d bytes, at most %d", len(b), maxMessage)
	}
	return b, err
}
