package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
)

// mutant is a file with one decision turned round.
type mutant struct {
	path string
	at   token.Position
	what string
	code []byte
}

// turned are operators and what they become.
var turned = map[token.Token]token.Token{
	token.EQL: token.NEQ, token.NEQ: token.EQL, token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR,
	token.LAND: token.LOR, token.LOR: token.LAND, token.ADD: token.SUB, token.SUB: token.ADD,
}

// maxSource bounds a file that is read.
const maxSource = 4 << 20

// mutantsOf finds every place in a file where a decision can be turned round.
func mutantsOf(path string) ([]mutant, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(src) > maxSource {
		return nil, fmt.Errorf("%s has %d bytes, of at most %d", path, len(src), maxSource)
	}
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	f := &finder{path: path, src: src, files: files}
	ast.Inspect(file, func(n ast.Node) bool {
		f.look(n)
		return true
	})
	return f.list, nil
}

// finder gathers the mutants of one file.
type finder struct {
	path  string
	src   []byte
	files *token.FileSet
	list  []mutant
}

func (f *finder) look(n ast.Node) {
	switch n := n.(type) {
	case *ast.BinaryExpr:
		if to, ok := turned[n.Op]; ok && !isText(n) {
			f.replace(n.OpPos, n.OpPos+token.Pos(len(n.Op.String())), to.String(), fmt.Sprintf("%s becomes %s", n.Op, to))
		}
	case *ast.IfStmt:
		cond := f.text(n.Cond)
		f.replace(n.Cond.Pos(), n.Cond.End(), "!("+cond+")", "if "+cond+" is turned round")
	case *ast.BranchStmt:
		if n.Label == nil && n.Tok == token.BREAK {
			f.replace(n.Pos(), n.End(), "continue", "break becomes continue")
		}
		if n.Label == nil && n.Tok == token.CONTINUE {
			f.replace(n.Pos(), n.End(), "break", "continue becomes break")
		}
	case *ast.ReturnStmt:
		if last := len(n.Results) - 1; last >= 0 && f.text(n.Results[last]) == "err" {
			f.replace(n.Results[last].Pos(), n.Results[last].End(), "nil", "the error is not returned")
		}
	case *ast.ExprStmt:
		if call, ok := n.X.(*ast.CallExpr); ok && f.text(call.Fun) != "panic" {
			f.replace(n.Pos(), n.End(), "_ = 0", f.text(n.X)+" is left out")
		}
	}
}

// isText says whether a sum has text on a side: there is no difference of texts.
func isText(n *ast.BinaryExpr) bool {
	for _, side := range []ast.Expr{n.X, n.Y} {
		if lit, ok := side.(*ast.BasicLit); ok && lit.Kind == token.STRING && n.Op == token.ADD {
			return true
		}
	}
	return false
}

func (f *finder) offset(p token.Pos) int { return f.files.Position(p).Offset }

func (f *finder) text(n ast.Node) string { return string(f.src[f.offset(n.Pos()):f.offset(n.End())]) }

func (f *finder) replace(from, to token.Pos, by, what string) {
	a, b := f.offset(from), f.offset(to)
	code := bytes.Join([][]byte{f.src[:a], []byte(by), f.src[b:]}, nil)
	f.list = append(f.list, mutant{path: f.path, at: f.files.Position(from), what: what, code: code})
}
