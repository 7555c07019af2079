package wire

import (
	"maps"
	"slices"
)

// Kinds are all kinds that there are, in order.
func Kinds() []Kind { return slices.Sorted(maps.Keys(makers)) }

// Empty is a message of a kind with zero fields.
func Empty(k Kind) Message { return makers[k]() }

// Bound is the most that a payload of a kind may take.
func Bound(k Kind) int { return bound(k) }
