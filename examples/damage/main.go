// Damage hurts a repository at random and shows what comes of it. It is the short form of docs/trust.md, which invites everybody to do
// the same by hand.
//
//	go run ./examples/damage                      twenty rounds, on a repository of its own in a temporary folder
//	go run ./examples/damage -seed 7 -rounds 100  the same again for the same seed
//	go run ./examples/damage -way truncate        one way only
//	go run ./examples/damage -hit DIR -seed 7     hurt the repository in DIR (a copy of yours!) once, and say how
//
// Each round takes a fresh copy, hurts it in one way, and looks: what restores must be right to the last byte; what does not must
// fail with an error. Then it repairs. What the repair calls whole must restore whole, and what it calls lost must be lost in
// exactly the ranges that it names: a salvaged disk is held against the original outside of them.
//
// # Exit status
//
// 0: in every round everything was repaired or named exactly. 1: it was not, which is a fault of Hikae: please report it with the
// seed. 2: usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
)

func main() {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(child(dir))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is the program without its surroundings.
func run(ctx context.Context, args []string, out, log io.Writer) int {
	flags := flag.NewFlagSet("damage", flag.ContinueOnError)
	flags.SetOutput(log)
	seed := flags.Uint64("seed", rand.Uint64N(1_000_000), "what chooses ways and places")
	rounds := flags.Int("rounds", 20, "how often, from 1 to 100000")
	name := flags.String("way", "", "one way only: "+strings.Join(names(), ", "))
	hit := flags.String("hit", "", "hurt the repository in this folder once, and do nothing else")
	if flags.Parse(args) != nil {
		return 2
	}
	chosen := ways
	if *name != "" {
		if chosen = waysNamed(*name); chosen == nil {
			fmt.Fprintf(log, "damage: there is no way called %q\n", *name)
			return 2
		}
	}
	if flags.NArg() > 0 || *rounds < 1 || *rounds > 100_000 {
		flags.Usage()
		return 2
	}
	fmt.Fprintln(out, "seed", *seed)
	var err error
	if *hit != "" {
		err = hitOnce(*hit, *seed, chosen, out)
	} else {
		err = show(ctx, *seed, *rounds, chosen, out)
	}
	if err != nil {
		fmt.Fprintln(log, "damage:", err)
		return 1
	}
	return 0
}

// hitOnce hurts somebody's repository in a way that needs nothing but its files.
func hitOnce(dir string, seed uint64, chosen []way, out io.Writer) error {
	rng := rand.New(rand.NewPCG(seed, 0))
	var possible []way
	for _, w := range chosen {
		if w.hurt != nil {
			possible = append(possible, w)
		}
	}
	if len(possible) == 0 {
		return errors.New("this way needs a backup that is under way: it cannot be done to files alone")
	}
	w := possible[rng.IntN(len(possible))]
	what, err := w.hurt(rng, dir)
	fmt.Fprintf(out, "%s: %s\n", w.name, what)
	return err
}

// show does rounds on copies of a repository of its own.
func show(ctx context.Context, seed uint64, rounds int, chosen []way, out io.Writer) (err error) {
	l, err := newLab(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	whole, lost := 0, 0
	for i := range rounds {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		w := chosen[i%len(chosen)]
		v, err := l.round(ctx, w, rng)
		fmt.Fprintf(out, "round %d, %s: %s\n%s", i, w.name, v.what, v.told)
		if err != nil {
			return fmt.Errorf("round %d of seed %d, %s: %w", i, seed, w.name, err)
		}
		if v.lost {
			lost++
		} else {
			whole++
		}
	}
	fmt.Fprintf(out, "%d rounds: in %d all came back, in %d exactly what is lost was named\n", rounds, whole, lost)
	return nil
}
