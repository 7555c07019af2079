package guest

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// Order is which ways are tried for one guest, first to last. It belongs to the guest: two guests of one job may have
// two orders. Nil is [DefaultOrder].
type Order []Kind

// kinds are all there are.
var kinds = []Kind{SSH, SMB, WinRM, VSphere, PSDirect, QGA, Direct}

// DefaultOrder goes over the network first and by the hypervisor last, as the published procedures do.
func DefaultOrder(windows bool) Order {
	if windows {
		return Order{SMB, Direct, VSphere, PSDirect, QGA, SSH, WinRM}
	}
	return Order{Direct, SSH, VSphere, PSDirect, QGA}
}

// ParseOrder reads kinds that are separated by commas: "qga,ssh". The empty text is nil, the default.
func ParseOrder(text string) (Order, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var o Order
	for word := range strings.SplitSeq(text, ",") {
		o = append(o, Kind(strings.ToLower(strings.TrimSpace(word))))
	}
	return o, o.Check()
}

// Check finds kinds that there are none of, or twice. The error is an fs.ErrInvalid.
func (o Order) Check() error {
	for i, k := range o {
		if !slices.Contains(kinds, k) {
			return fmt.Errorf("%.40q is no kind of channel; there are %q: %w", string(k), kinds, fs.ErrInvalid)
		}
		if slices.Contains(o[:i], k) {
			return fmt.Errorf("%s stands in the order twice: %w", k, fs.ErrInvalid)
		}
	}
	return nil
}

// String is what [ParseOrder] reads.
func (o Order) String() string {
	words := make([]string, len(o))
	for i, k := range o {
		words[i] = string(k)
	}
	return strings.Join(words, ",")
}

// Ranked are the kinds over which a decision's component is brought in, best first: of those that are open, the kinds
// that the decision names, and then, unless the choice is strict, the others in the guest's order, because a way that was
// open a moment ago may fail in the middle. An order that was set for the guest goes before the decision's own: only
// kinds that stand in it are used, and the decision says whether it is the runtime component at all.
func Ranked(d Decision, c Choice, order Order, findings []Finding) []Kind {
	set := order != nil
	if !set {
		order = DefaultOrder(c.Windows)
	}
	var named, others []Kind
	for _, k := range order {
		switch {
		case k == Direct || !slices.ContainsFunc(findings, func(f Finding) bool { return f.Kind == k && f.Open }):
		case set || d.Action.uses(k):
			named = append(named, k)
		case !c.Strict:
			others = append(others, k)
		}
	}
	if !d.Action.Runtime() {
		return nil
	}
	return append(named, others...)
}

// Runtime reports whether an action brings in the runtime component.
func (a Action) Runtime() bool {
	return a == RuntimeByShare || a == RuntimeByHypervisor || a == RuntimeByNetwork
}

// uses reports whether an action goes over a kind of channel.
func (a Action) uses(k Kind) bool {
	switch a {
	case RuntimeByShare:
		return k == SMB
	case RuntimeByHypervisor:
		return k.Networkless()
	case RuntimeByNetwork:
		return k == SSH || k == WinRM
	}
	return false
}
