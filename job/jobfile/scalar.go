package jobfile

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae/repo/retention"
)

// scalar is a type that is read from one word or line. pattern is its JSON Schema's.
type scalar interface {
	parse(text string) error
	pattern() string
}

// Strings is a list of texts; one alone may be written without a list.
type Strings []string

// Duration is a time such as 90s, 10m, 6h or 30d.
type Duration time.Duration

const (
	maxDuration     = 100 * 366 * 24 * time.Hour
	durationPattern = `^(0|([0-9]+(\.[0-9]+)?(ms|s|m|h))+|[0-9]{1,5}d)$`
)

func (d *Duration) parse(text string) error {
	v, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		if n, err = strconv.Atoi(days); n > int(maxDuration/(24*time.Hour)) {
			err = errors.New("too long")
		}
		v = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || v < 0 || v > maxDuration {
		return fmt.Errorf("%q is no time; write 90s, 10m, 6h or 30d", shorten(text))
	}
	*d = Duration(v)
	return nil
}

func (*Duration) pattern() string { return durationPattern }

// Or is the time, or another one where nothing was said.
func (d Duration) Or(other time.Duration) time.Duration {
	if d == 0 {
		return other
	}
	return time.Duration(d)
}

// Rate is bytes in a second as a person writes them: 100MiB/s, 20MB/s, 400Mbit/s.
type Rate string

var rateText = regexp.MustCompile(`^(?i)[0-9]+(\.[0-9]+)? ?([kmgt]i?b?|[kmg]bit|b)?(/s)?$`)

func (r *Rate) parse(text string) error {
	if !rateText.MatchString(text) || strings.Trim(text, "0.") == "" {
		return fmt.Errorf("%q is no rate; write 50MiB/s, 20MB/s or 100Mbit/s", shorten(text))
	}
	*r = Rate(text)
	return nil
}

func (*Rate) pattern() string {
	return `^[0-9]+(\.[0-9]+)? ?([kKmMgGtT]i?[bB]?|[kKmMgG]bit|[bB])?(/s)?$`
}

// Share is "all" or a percentage.
type Share string

func (s *Share) parse(text string) error {
	v, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if text != "all" && (err != nil || !strings.HasSuffix(text, "%") || !(v > 0 && v <= 100)) {
		return fmt.Errorf(`%q is no share; write "all", or a percentage such as 5%%`, shorten(text))
	}
	*s = Share(text)
	return nil
}

func (*Share) pattern() string { return `^(all|[0-9]+(\.[0-9]+)?%)$` }

// Keep is a policy of retention, as one line ("last=3,daily=14") or with a field for each rule.
type Keep struct{ retention.Policy }

func (k *Keep) parse(text string) error {
	p, err := retention.Parse(text)
	if err != nil {
		return fmt.Errorf("%s; write last=3,daily=14,weekly=8 or a field for each", policyWords(err))
	}
	k.Policy = p
	return nil
}

func (*Keep) pattern() string { return `^[a-z]+ *= *[0-9a-z]+( *, *[a-z]+ *= *[^,]+)*$` }

// shorten keeps a message to one line.
func shorten(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
