from training.captioning import main

main()
