package wire

import "fmt"

// Error makes an answer an error.
func (m *Fail) Error() string {
	if m.Object == "" {
		return m.Text
	}
	return fmt.Sprintf("%s: %s", m.Object, m.Text)
}

// Error makes a refusal an error.
func (m *Refuse) Error() string { return m.Text }
