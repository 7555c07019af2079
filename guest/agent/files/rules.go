package files

import (
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/index/list"
)

// Bounds of what may be asked for.
const (
	maxRules = 256 // of each kind
	maxRule  = 4096
)

// rules say what is listed.
type rules struct {
	include []string
	exclude []string
	fold    bool
}

func newRules(args wire.IndexArgs) (*rules, error) {
	r := &rules{fold: runtime.GOOS == "windows"}
	if len(args.Include) > maxRules || len(args.Exclude) > maxRules {
		return nil, &wire.Failure{Code: wire.CodeInvalid, Message: "too many folders to include or to exclude"}
	}
	for _, f := range args.Include {
		if r.fold {
			f = strings.ReplaceAll(f, `\`, "/")
		}
		if len(f) > maxRule || !r.absolute(f) {
			return nil, &wire.Failure{Code: wire.CodeInvalid, Message: "a folder to include is not an absolute path: " + f[:min(len(f), 100)]}
		}
		r.include = append(r.include, r.clean(f))
	}
	for _, f := range args.Exclude {
		if r.fold {
			f = strings.ReplaceAll(f, `\`, "/")
		}
		if _, err := path.Match(f, ""); err != nil || len(f) > maxRule || f == "" || strings.Contains(f, "/") && !r.absolute(f) {
			return nil, &wire.Failure{Code: wire.CodeInvalid, Message: "neither a name nor a folder to exclude: " + f[:min(len(f), 100)]}
		}
		r.exclude = append(r.exclude, r.clean(f))
	}
	return r, nil
}

// absolute reports whether a path begins at a root: "/var", or "C:/Users".
func (r *rules) absolute(f string) bool {
	if r.fold {
		return len(f) >= 2 && f[1] == ':' && (len(f) == 2 || f[2] == '/')
	}
	return strings.HasPrefix(f, "/")
}

func (r *rules) clean(f string) string {
	f = path.Clean(f)
	if r.fold {
		f = strings.ToLower(f)
	}
	return f
}

// list reports whether a path of the guest is listed.
func (r *rules) list(full string) bool {
	if r.fold {
		full = strings.ToLower(full)
	}
	name := full[strings.LastIndexByte(full, '/')+1:]
	for _, x := range r.exclude {
		what := full
		if !strings.Contains(x, "/") {
			what = name
		}
		if ok, _ := path.Match(x, what); ok {
			return false
		}
	}
	if len(r.include) == 0 {
		return true
	}
	return slices.ContainsFunc(r.include, func(f string) bool { return below(full, f) || below(f, full) })
}

// below reports whether a path is a folder, or in it.
func below(p, folder string) bool {
	if folder == "/" {
		return true
	}
	return list.Within(p, folder)
}
