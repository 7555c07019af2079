package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/vmware"
)

// tool is one run of the program: its streams, its environment and the flags that every command has.
type tool struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	env            func(string) string

	json, quiet bool
	acting      bool // the command line was understood
	left        *reply

	server *vsphere    // the one that this command is logged in to
	site   *hypervSite // the one that this command is logged on to
	ends   []func()    // what is let go of when the command has ended
}

// atEnd has something let go of when the command has ended.
func (t *tool) atEnd(f func()) { t.ends = append(t.ends, f) }

// end lets go of what the command held open.
func (t *tool) end() {
	for _, end := range slices.Backward(t.ends) {
		end()
	}
	t.ends = nil
}

// reply is what a command leaves when it has a result.
type reply struct {
	doc      any                         // for scripts
	text     func(p *show.Printer) error // for people
	loud     bool                        // the text is what was asked for: --quiet does not hold it back
	warnings []string                    // for stderr
	notes    []string                    // for stderr
	status   outcome.Status
}

// action is what a command does. A reply beside an error is a result that stands although the command failed: its
// document is printed, and the error goes to stderr.
type action func(ctx context.Context, args []string) (*reply, error)

// act makes a cobra command of an action.
func (t *tool) act(a action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		t.acting = true
		left, err := a(cmd.Context(), args)
		t.left = left
		return err
	}
}

// run runs one command line. Everything that leaves the program, on stdout, on stderr and as exit status, leaves it
// here.
func (t *tool) run(ctx context.Context, args []string) outcome.Status {
	root := t.root()
	root.SetArgs(args)
	root.SetIn(t.stdin)
	root.SetOut(t.stdout)
	root.SetErr(t.stderr)
	err := root.ExecuteContext(ctx)
	t.end()
	if err != nil && !t.acting {
		t.json = t.json || slices.Contains(args, "--json") // the flags may not have been read so far
		err = asUsage(root, args, err)
	}
	if err != nil && context.Cause(ctx) == errInterrupted {
		err = &outcome.Error{Kind: outcome.KindInterrupted, Text: "interrupted", Err: beyond(err), Hint: interruptedHint(err)}
	}
	return t.finish(err)
}

// beyond is what an error tells beside the interruption itself; nil: nothing.
func beyond(err error) error {
	if err == errInterrupted { // what wraps it has more to say
		return nil
	}
	return err
}

// interruptedHint says what is to be done after a command was ended in mid-work. A restore in place cannot be taken back.
func interruptedHint(err error) string {
	half, _ := errors.AsType[*hyperv.IncompleteError](err)
	other, _ := errors.AsType[*vmware.IncompleteError](err)
	if half != nil || other != nil {
		return "The VM's disks are a mixture of two states now: do not start it. Run the same command again, or restore another point in place."
	}
	return "What was not finished was taken back. Run the command again; blocks that are stored are not stored twice."
}

// asUsage gives an error of the command line its hint.
func asUsage(root *cobra.Command, args []string, err error) error {
	name := "hikae"
	if cmd, _, findErr := root.Find(args); findErr == nil {
		name = cmd.CommandPath()
	}
	err = inPlainWords(err)
	return &outcome.Error{Kind: outcome.KindUsage, Err: err, Hint: fmt.Sprintf("`%s --help` shows how it is used.", name)}
}

// inPlainWords says what cobra says of flags that are missing, or given together.
func inPlainWords(err error) error {
	words := err.Error()
	if _, names, ok := strings.Cut(words, `required flag(s) "`); ok {
		first, _, _ := strings.Cut(names, `"`)
		return fmt.Errorf("--%s is missing", first)
	}
	_, rest, ok := strings.Cut(words, "flags in the group [")
	names, rest, closed := strings.Cut(rest, "]")
	if !ok || !closed {
		return err
	}
	group := strings.Fields(names)
	for i, name := range group {
		group[i] = "--" + name
	}
	all := strings.Join(group, " and ")
	switch _, given, _ := strings.Cut(rest, "; ["); {
	case strings.Contains(rest, "is required"):
		return fmt.Errorf("%s is missing", strings.Join(group, " or "))
	case strings.Contains(rest, "they must all be set"):
		return fmt.Errorf("%s are given together, or none of them", all)
	case given != "":
		given, _, _ = strings.Cut(given, "]")
		return fmt.Errorf("only one of --%s may be given", strings.ReplaceAll(given, " ", " and --"))
	}
	return fmt.Errorf("only one of %s may be given", all)
}

func (t *tool) finish(err error) outcome.Status {
	status, printErr := outcome.Done, error(nil)
	if t.left != nil {
		status = t.left.status
		printErr = t.print(t.left)
		t.remark(t.left)
	}
	if err == nil && printErr != nil { // a result that nobody received is not a success
		err = &outcome.Error{Text: "write the result to stdout", Err: printErr}
	}
	if err == nil {
		return status
	}
	problem := outcome.Of(err)
	if t.json && t.left == nil {
		if err := outcome.WriteJSON(t.stdout, outcome.Document{Error: problem}); err != nil {
			fmt.Fprintf(t.stderr, "error: write the error to stdout: %v\n", err)
		}
	}
	p := t.printer(t.stderr)
	fmt.Fprint(t.stderr, problem.Text(p.Red("error:")))
	return problem.Status()
}

// print writes a command's result to stdout.
func (t *tool) print(left *reply) error {
	switch {
	case t.json && left.doc != nil:
		return outcome.WriteJSON(t.stdout, left.doc)
	case t.json || left.text == nil || t.quiet && !left.loud:
		return nil
	}
	return left.text(t.printer(t.stdout))
}

// remark writes warnings and notes to stderr. Warnings are never held back.
func (t *tool) remark(left *reply) {
	p := t.printer(t.stderr)
	for _, w := range left.warnings {
		fmt.Fprintf(t.stderr, "%s %s\n", p.Yellow("warning:"), outcome.Clean(w))
	}
	if t.quiet {
		return
	}
	for _, n := range left.notes {
		fmt.Fprintf(t.stderr, "note: %s\n", outcome.Clean(n))
	}
}

// printer writes for people on w, in colour where that is a terminal and nobody objects (https://no-color.org).
func (t *tool) printer(w io.Writer) *show.Printer {
	return &show.Printer{W: w, Colour: isTerminal(w) && t.env("NO_COLOR") == "" && t.env("TERM") != "dumb"}
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// tell writes a line to stderr while a command runs.
func (t *tool) tell(format string, args ...any) {
	if !t.quiet {
		fmt.Fprintln(t.stderr, outcome.Clean(fmt.Sprintf(format, args...)))
	}
}

// shown is an argument in an error. A token is a secret, and errors are kept in logs.
func shown(arg string) string {
	if strings.Contains(arg, "hikae-token-") {
		return "a token, which is brought in a file: --token-file FILE"
	}
	return strconv.Quote(arg)
}

// want checks the number of arguments; names are shown to whoever got it wrong. A name that ends in … takes the rest,
// one in brackets may be missing.
func want(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		least, most := 0, len(names)
		for _, name := range names {
			if !strings.HasPrefix(name, "[") {
				least++
			}
			if strings.HasSuffix(name, "…") {
				most = len(args)
			}
		}
		switch {
		case len(args) < least:
			return fmt.Errorf("%s is missing", strings.TrimSuffix(names[len(args)], "…"))
		case len(args) > max(least, most):
			return fmt.Errorf("one argument too many: %s", shown(args[most]))
		}
		return nil
	}
}
