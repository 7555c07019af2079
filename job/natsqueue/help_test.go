package natsqueue_test

import (
	"encoding/json"

	"github.com/hikae/hikae/job/queue"
)

func message(label, id string) queue.Message {
	return queue.Message{ID: id, Label: label, Body: json.RawMessage(`{}`)}
}
