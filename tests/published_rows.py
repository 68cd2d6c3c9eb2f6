"""A row of each published file, as its repository describes it."""

MMAR = {
    "id": "a", "audio_path": "./clips/a.wav", "question": "What falls?",
    "choices": ["a glass", "a plate"], "answer": "a glass", "modality": "mix-sound-speech",
    "category": "Perception Layer", "sub-category": "Content Analysis", "language": "en",
}  # fmt: skip
RULISTENING = {
    "question": "What plays?", "caption": "A song.", "correct_answer": "oboe",
    "distractors": ["flute", "viola", "harp", "horn"], "PI": 0.9,
}  # fmt: skip
ALME = {
    "stimulus_id": "cv1", "language": "EN", "audio_path": "en/clips/a.wav",
    "ref_text": "He has three dogs.", "conflict_text": "He has four dogs.",
    "question": {
        "question_text": "How many dogs?", "choices": ["four", "three"],
        "correct_answer": "three", "flip_type": "number_swap",
    },
}  # fmt: skip
FIRST = {
    "entry_id": 0, "audio_index": "a", "prompt_text": "Is there a sound of rain?", "object": "rain",
    "attribute": "negative", "label": "No", "sampling": "random",
}  # fmt: skip
LATER = {
    "entry_id": 0, "audio": "clips/a.wav", "query": "Is the dog first?", "object": "dog",
    "attribute": "positive", "ground_truth": "Yes",
}  # fmt: skip
