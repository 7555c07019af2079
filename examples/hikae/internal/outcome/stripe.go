package outcome

import "github.com/hikae/hikae/repo/store/stripe"

// stripeRules are lines of the table for errors of striped sets.
func stripeRules() []rule {
	return []rule{
		{is(stripe.ErrNotSet), KindNotFound, Failed, "Make the set first: hikae repo stripe create FILE --data K --parity M."},
		{is(stripe.ErrNoArbiter), KindReadOnly, Failed, "Bring the arbiter back, or make another member decide: hikae repo stripe promote FILE NAME."},
		{is(stripe.ErrMissing), KindReadOnly, Failed, "Bring the member back, or rebuild it: hikae repo stripe rebuild FILE NAME. A line \"degraded\" in the file allows writing without it."},
		{is(stripe.ErrTooFew), KindFailed, Failed, "Bring members back: `hikae repo stripe status FILE` says which ones are away."},
		{is(stripe.ErrConflict), KindFailed, Failed, "A member was put back as it had been earlier, or is there twice: docs/stripe.md says what to do."},
		{is(stripe.ErrFenced), KindBusy, Failed, "Run the command again: the set got another arbiter meanwhile."},
	}
}
