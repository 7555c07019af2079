package hyperv

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// Procedures are all that there are, but [Auto]; Modes are all modes.
var (
	Procedures = []Procedure{Writer2012, Writer2012R2, Production, Requested}
	Modes      = []Mode{OnHost, OffHost}
)

// ParseProcedure takes a word of [Procedures], or "auto". Another is fs.ErrInvalid.
func ParseProcedure(word string) (Procedure, error) {
	if word == "auto" {
		return Auto, nil
	}
	if slices.Contains(Procedures, Procedure(word)) {
		return Procedure(word), nil
	}
	return Auto, fmt.Errorf("procedure %q: %w: auto, %s", word, fs.ErrInvalid, wordList(Procedures))
}

// ParseMode takes a word of [Modes]. Another is fs.ErrInvalid.
func ParseMode(word string) (Mode, error) {
	if slices.Contains(Modes, Mode(word)) {
		return Mode(word), nil
	}
	return OnHost, fmt.Errorf("mode %q: %w: %s", word, fs.ErrInvalid, wordList(Modes))
}

// ParseQuiesce takes try, require or off. Another word is fs.ErrInvalid.
func ParseQuiesce(word string) (Quiesce, error) {
	switch q := Quiesce(word); {
	case word == "try":
		return TryQuiesce, nil
	case q == RequireQuiesce || q == NoQuiesce:
		return q, nil
	}
	return TryQuiesce, fmt.Errorf("quiesce %q: %w: try, require or off", word, fs.ErrInvalid)
}

func wordList[T ~string](words []T) string {
	var list []string
	for _, w := range words {
		list = append(list, string(w))
	}
	return strings.Join(list, ", ")
}
