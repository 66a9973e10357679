"""The official clients of OpenAI and Anthropic against the LLM door; prints what they saw as JSON."""

import json
import sys

import anthropic
import openai

url, secret = sys.argv[1:]
seen = {}

client = openai.OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0)
hello = [{"role": "user", "content": "hello there"}]
call = [{"role": "user", "content": 'rec__echo {"tag": "sdk"}'}]
agent = {"x-tollgate-mode": "agent"}

seen["openai_chat"] = client.chat.completions.create(model="echo", messages=hello).choices[0].message.content
chunks = client.chat.completions.create(model="echo", messages=hello, stream=True)
seen["openai_stream"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
asked = client.chat.completions.create(model="tools", messages=call)
seen["openai_tool"] = asked.choices[0].message.tool_calls[0].function.name
seen["openai_responses"] = client.responses.create(model="echo", input="hello there").output_text
events = client.responses.create(model="echo", input="hello there", stream=True)
seen["openai_responses_stream"] = "".join(e.delta for e in events if e.type == "response.output_text.delta")
embedding = client.embeddings.create(model="echo", input="hello", encoding_format="float")
seen["openai_embedding"] = embedding.data[0].embedding
try:
    client.chat.completions.create(model="missing", messages=hello)
except openai.NotFoundError as error:
    seen["openai_error"] = [type(error).__name__, error.code]
done = client.chat.completions.create(model="tools", messages=call, extra_headers=agent)
seen["openai_agent"] = done.choices[0].message.content.startswith("done: ")
chunks = client.chat.completions.create(model="tools", messages=call, stream=True, extra_headers=agent)
seen["openai_agent_stream"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks).startswith("done: ")
events = client.responses.create(model="tools", input=call[0]["content"], stream=True, extra_headers=agent)
seen["openai_agent_responses"] = "".join(e.delta for e in events if e.type == "response.output_text.delta").startswith("done: ")

claude = anthropic.Anthropic(base_url=url, api_key=secret, max_retries=0)
ask = {"model": "echo", "max_tokens": 64, "messages": hello}
seen["anthropic_message"] = claude.messages.create(**ask).content[0].text
with claude.messages.stream(**ask) as stream:
    seen["anthropic_stream"] = "".join(stream.text_stream)
wants = {"model": "tools", "max_tokens": 64, "messages": call}
seen["anthropic_tool"] = next(b.name for b in claude.messages.create(**wants).content if b.type == "tool_use")
try:
    claude.messages.create(**{**ask, "model": "missing"})
except anthropic.NotFoundError as error:
    seen["anthropic_error"] = type(error).__name__
with claude.messages.stream(**wants, extra_headers=agent) as stream:
    seen["anthropic_agent_stream"] = "done: " in "".join(stream.text_stream)
seen["anthropic_models"] = isinstance(claude.models.list().data, list) and claude.models.retrieve("echo").id == "echo"

# Each client at a provider that speaks otherwise.
for name in ["anthropic", "gem", "rock"]:
    answer = client.chat.completions.create(model=f"{name}/echo", messages=hello)
    chunks = list(client.chat.completions.create(model=f"{name}/echo", messages=hello, stream=True, stream_options={"include_usage": True}))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    looped = client.chat.completions.create(model=f"{name}/tools", messages=call, extra_headers=agent)
    seen[f"openai_at_{name}"] = [answer.choices[0].message.content, said, answer.usage.total_tokens == chunks[-1].usage.total_tokens,
                                 looped.choices[0].message.content.startswith("done: ")]
for name in ["openai", "gem", "rock"]:
    answer = claude.messages.create(**{**ask, "model": f"{name}/echo"})
    with claude.messages.stream(**{**ask, "model": f"{name}/echo"}) as stream:
        said, last = "".join(stream.text_stream), stream.get_final_message()
    with claude.messages.stream(**{**wants, "model": f"{name}/tools"}) as stream:
        used = next(b for b in stream.get_final_message().content if b.type == "tool_use")
    seen[f"anthropic_at_{name}"] = [answer.content[0].text, said, [last.usage.input_tokens, last.usage.output_tokens] == [answer.usage.input_tokens, answer.usage.output_tokens],
                                    isinstance(used.input, dict)]

print(json.dumps(seen))
