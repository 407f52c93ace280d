// Conversations, kept in this browser, each under a key of its own. It must not know the page.

const PREFIX = "fungible.chat.";

/// Whose key in the storage it is, if it is a conversation's.
export const idOf = (key) => (key?.startsWith(PREFIX) ? key.slice(PREFIX.length) : null);

export function create() {
  return { id: crypto.randomUUID?.() ?? String(Math.random()).slice(2), title: "", updated: Date.now(), messages: [] };
}

/// All of them, the newest first. What cannot be read is passed over.
export function load() {
  const found = [];
  try {
    for (const key of Object.keys(localStorage).filter((key) => key.startsWith(PREFIX))) {
      const conversation = read(localStorage.getItem(key));
      if (conversation) found.push(conversation);
    }
  } catch {
    // Storage is forbidden: there are none.
  }
  return found.sort((a, b) => b.updated - a.updated);
}

function read(text) {
  try {
    const conversation = JSON.parse(text);
    if (typeof conversation.id !== "string" || !Array.isArray(conversation.messages)) return null;
    for (const message of conversation.messages) {
      // The page was closed while an answer came, or was waited for.
      if (message.state === "writing" || message.state === "busy") {
        Object.assign(message, { state: "lost", error: "The page was closed before the end." });
      }
    }
    return conversation;
  } catch {
    return null;
  }
}

/// Whether it could be kept.
export function save(conversation) {
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    return true;
  } catch {
    return false;
  }
}

export function remove(conversation) {
  try {
    localStorage.removeItem(PREFIX + conversation.id);
  } catch {
    // Then it was not kept either.
  }
}

/// A line that says what a text is about.
export function titleOf(text) {
  const line = text.trim().split("\n", 1)[0];
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
}

export function toMarkdown(conversation) {
  const parts = [`# ${conversation.title || "Conversation"}`];
  for (const message of conversation.messages) {
    parts.push(message.role === "user" ? "## You" : `## ${message.model || "Assistant"}`);
    if (message.reasoning) {
      parts.push(`<details><summary>Reasoning</summary>\n\n${message.reasoning}\n\n</details>`);
    }
    if (message.content) parts.push(message.content);
    for (const call of message.tools ?? []) {
      parts.push(`Calls \`${call.name}\`:\n\n\`\`\`json\n${call.arguments}\n\`\`\``);
    }
  }
  return `${parts.join("\n\n")}\n`;
}
