package pack

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var versionForm = regexp.MustCompile(`^(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})$`)

// parseVersion reads major.minor.patch. There are no other forms: every pair of versions has one order, in which nobody
// can be wrong.
func parseVersion(text string) (v [3]int, err error) {
	if !versionForm.MatchString(text) {
		return v, fmt.Errorf("%w: %.40q is no version: three numbers with dots", ErrForm, text)
	}
	for i, part := range strings.Split(text, ".") {
		if v[i], err = strconv.Atoi(part); err != nil {
			return v, fmt.Errorf("%w: version %.40q", ErrForm, text)
		}
	}
	return v, nil
}

// Compare orders two versions: below 0, 0, above 0. The error is an [ErrForm].
func Compare(a, b string) (int, error) {
	x, err := parseVersion(a)
	if err != nil {
		return 0, err
	}
	y, err := parseVersion(b)
	if err != nil {
		return 0, err
	}
	return cmp.Or(cmp.Compare(x[0], y[0]), cmp.Compare(x[1], y[1]), cmp.Compare(x[2], y[2])), nil
}
