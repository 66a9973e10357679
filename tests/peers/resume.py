"""The official clients come back for the answers of agent loops that had waited for people; prints what they saw as JSON."""

import json
import sys

import anthropic
import openai

url, secret, chat, message, response = sys.argv[1:]
seen = {}


def resume(request):
    return {"x-tollgate-resume": request}


client = openai.OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0)
ask = {"model": "tools", "messages": []}
seen["openai_chat"] = client.chat.completions.create(**ask, extra_headers=resume(chat)).choices[0].message.content
chunks = client.chat.completions.create(**ask, stream=True, extra_headers=resume(chat))
seen["openai_stream"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
seen["openai_responses"] = client.responses.create(model="tools", input="", extra_headers=resume(response)).output_text
events = client.responses.create(model="tools", input="", stream=True, extra_headers=resume(response))
seen["openai_responses_stream"] = "".join(e.delta for e in events if e.type == "response.output_text.delta")

claude = anthropic.Anthropic(base_url=url, api_key=secret, max_retries=0)
ask = {"model": "tools", "max_tokens": 64, "messages": []}
seen["anthropic_message"] = claude.messages.create(**ask, extra_headers=resume(message)).content[0].text
with claude.messages.stream(**ask, extra_headers=resume(message)) as stream:
    seen["anthropic_stream"] = "".join(stream.text_stream)
    seen["anthropic_final"] = stream.get_final_message().stop_reason

print(json.dumps(seen))
