package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/show"
)

// versionDoc is what version prints for scripts.
type versionDoc struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func (t *tool) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show which version this is",
		Long:    "Show the version of this program, the commit that it was built from, and with which Go.",
		Example: example("hikae version\nhikae version --json"),
		Args:    want(),
		RunE: t.act(func(context.Context, []string) (*reply, error) {
			v := thisVersion()
			return &reply{doc: v, loud: true, text: func(w *show.Printer) error {
				return w.Printf("hikae %s\ncommit %s\nbuilt with %s for %s/%s\n", v.Version, v.Commit, v.Go, v.OS, v.Arch)
			}}, nil
		}),
	}
}

// thisVersion is what the linker wrote into the program.
func thisVersion() versionDoc {
	v := versionDoc{Version: "(devel)", Commit: "unknown", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	dirty := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v.Commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "changed since"
		}
	}
	if dirty != "" {
		v.Commit = fmt.Sprintf("%s, %s", v.Commit, dirty)
	}
	return v
}
