package tidy

import (
	"go/ast"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// contracts are the methods whose contract stands with an interface: a comment on an implementation would only repeat
// it. These are the standard library's; those of our own interfaces are added.
func contracts(all []source) map[string]bool {
	plain := map[string]bool{}
	for _, name := range []string{"Error", "Unwrap", "Is", "As", "String", "Close", "Read", "Write", "Seek", "Len", "Less",
		"Swap", "MarshalJSON", "UnmarshalJSON", "MarshalText", "UnmarshalText"} {
		plain[name] = true
	}
	for _, s := range all {
		ast.Inspect(s.File, func(n ast.Node) bool {
			if i, ok := n.(*ast.InterfaceType); ok {
				for _, method := range i.Methods.List {
					for _, name := range method.Names {
						plain[name.Name] = true
					}
				}
			}
			return true
		})
	}
	return plain
}

// TestExportedAreDocumented looks at what a user of a package sees: programs and our own internal packages aside.
func TestExportedAreDocumented(t *testing.T) {
	t.Parallel()
	plain := contracts(sources(t))
	for _, s := range sources(t) {
		if s.isTest() || s.Name.Name == "main" || strings.Contains("/"+s.name, "/internal/") {
			continue
		}
		for _, decl := range s.Decls {
			for _, name := range undocumented(decl, plain) {
				t.Errorf("%s: %s has no comment", position(name), name.Name)
			}
		}
	}
}

// undocumented lists the exported names of a declaration that no comment says anything of.
func undocumented(decl ast.Decl, plain map[string]bool) []*ast.Ident {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Doc == nil && d.Name.IsExported() && (d.Recv == nil || exportedReceiver(d) && !plain[d.Name.Name]) {
			return []*ast.Ident{d.Name}
		}
	case *ast.GenDecl:
		var out []*ast.Ident
		for _, spec := range d.Specs {
			out = append(out, undocumentedSpec(d, spec)...)
		}
		return out
	}
	return nil
}

func exportedReceiver(d *ast.FuncDecl) bool {
	expr := d.Recv.List[0].Type
	for {
		switch x := expr.(type) {
		case *ast.StarExpr:
			expr = x.X
		case *ast.IndexExpr:
			expr = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}

// undocumentedSpec: a comment on the group serves all its constants or variables, a comment on the line serves one, and
// the values of an enumeration are served by the comment on its type.
func undocumentedSpec(d *ast.GenDecl, spec ast.Spec) (out []*ast.Ident) {
	switch s := spec.(type) {
	case *ast.TypeSpec:
		if s.Name.IsExported() && s.Doc == nil && s.Comment == nil && (d.Doc == nil || d.Lparen != token.NoPos) {
			out = append(out, s.Name)
		}
	case *ast.ValueSpec:
		for _, name := range s.Names {
			if name.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil && !enumeration(d) {
				out = append(out, name)
			}
		}
	}
	return out
}

// enumeration reports whether a declaration is a group of constants of one named type.
func enumeration(d *ast.GenDecl) bool {
	if d.Tok != token.CONST || d.Lparen == token.NoPos {
		return false
	}
	first, ok := d.Specs[0].(*ast.ValueSpec)
	if !ok || first.Type == nil {
		return false
	}
	_, named := first.Type.(*ast.Ident)
	return named
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// TestLinks follows the relative links of every Markdown file, to files and to headings.
func TestLinks(t *testing.T) {
	t.Parallel()
	for _, f := range files(t) {
		if !strings.HasSuffix(f.name, ".md") {
			continue
		}
		for _, m := range link.FindAllStringSubmatch(withoutCode(string(f.data)), -1) {
			if problem := followLink(f, m[1]); problem != "" {
				t.Errorf("%s: link %s: %s", f.name, m[1], problem)
			}
		}
	}
}

func followLink(f file, to string) string {
	if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
		return ""
	}
	name, heading, _ := strings.Cut(to, "#")
	text := f.data
	if name != "" {
		at := filepath.Join(root, path.Dir(f.name), name)
		info, err := os.Stat(at)
		if err != nil {
			return "no such file"
		}
		if info.IsDir() || heading == "" || !strings.HasSuffix(name, ".md") {
			return ""
		}
		if text, err = os.ReadFile(at); err != nil {
			return err.Error()
		}
	}
	if heading != "" && !headings(string(text))[heading] {
		return "no such heading"
	}
	return ""
}

// headings are the names by which the headings of a page are linked to: lower case, blanks as dashes.
func headings(text string) map[string]bool {
	out := map[string]bool{}
	for line := range strings.Lines(withoutCode(text)) {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(strings.TrimLeft(line, "#")))
		out[name] = true
	}
	return out
}

// withoutCode blanks fenced blocks, in which brackets mean something else.
func withoutCode(text string) string {
	var b strings.Builder
	fenced := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
			continue
		}
		if !fenced {
			b.WriteString(line)
		}
	}
	return b.String()
}
